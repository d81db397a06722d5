import math
import threading
import time

from steepest.numerics.deadline import Deadline
from steepest.witnesses.budget import Budget


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_only_computing_of_this_thread_counts():
    budget = Budget.of(0.2, Deadline())
    other = threading.Thread(target=spin, args=(0.3,))
    other.start()
    other.join()
    time.sleep(0.2)
    assert not budget.passed() and budget.left() > 0.1
    spin(0.21)
    assert budget.passed() and budget.left() == 0.0


def test_the_wall_clock_and_a_request_end_it_too():
    assert Budget.of(100.0, Deadline.after(-1.0)).passed()
    stop = Deadline()
    budget = Budget.of(100.0, stop)
    part = budget.share(0.5)
    assert not part.passed() and 45.0 < part.left() <= 50.0
    stop.stop("enough")
    assert budget.passed() and part.passed() and part.left() == 0.0


def test_a_part_of_no_limit_is_no_limit():
    assert Budget().share(0.1).left() == math.inf
