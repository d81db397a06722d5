"""A page per root cause: symptom, evidence, theory, fix, look-alikes, references."""

from steepest.causes.page import Page as Page
from steepest.causes.page import load_page as load_page
