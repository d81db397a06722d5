"""What the search for a witness finds: the proven secant slope (l2, all inputs) per network and seed, on one thread.

    python benchmarks/lower.py [FOLDER ...] [--seconds 12] [--seeds 3] [--only acasxu,kw_har] [--out lower.md]

Seconds are computing time of the one thread, so that other load hardly counts; columns: the value of every seed, the least
and the median, the most seconds a seed took, and what is asked for or was found before. FOLDER defaults to the networks under
$STEEPEST_SHARED (or ../shared); without them there is nothing to measure, and it says so. A table that --out names is
written after every network; rows it already holds for other networks and seconds are kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

_CHILD = """
import sys, time
import torch
torch.set_num_threads(1)
from steepest.capture.load import load
from steepest.errors import SteepestError
from steepest.results import Domain
from steepest.witnesses.ascent import GradientAscent
try:
    graph = load(sys.argv[1]).graph
except SteepestError:
    sys.exit(3)
began = time.process_time()
found = GradientAscent(seconds=float(sys.argv[2]), seed=int(sys.argv[3])).search(graph, Domain("all"), 2.0)
print(found.value if found else 0.0, time.process_time() - began)
"""

REFERENCE = {
    "acasxu_1_1": ">= 1600",
    "acasxu_2_2": "632.26",
    "acasxu_4_4": "268.57",
    "acopf_14_ieee": "744.41",
    "cgan_imgSz32_nCh_1": "1.9445",
    "cgan_imgSz32_nCh_3_nonlinear_activations": "3.8554",
    "cifar_biasfield_0": "403.95",
    "cifar_biasfield_base": "151.88",
    "cifar_marabou_medium": "251.61",
    "cifar_oval_base_kw": "3.7416",
    "cifar_oval_wide_kw": "2.4679",
    "cifar_resnet_2b": "7.5078",
    "cifar_sri_resnet_a": "5.9425",
    "collins_rul_full_window_40": "302.45",
    "cora_mnist_point": ">= 23000",
    "cora_mnist_trades": "4373.6",
    "digits_fnn3_seed0": ">= 9.60",
    "distshift_mnist_concat": "25015",
    "distshift_mnist_generator": "8.3518",
    "dnnv_convSmallRELU__Point": "13.654",
    "dnnv_mnist_300_200_100": "30.056",
    "kw_cifar_small_8px": "0.8881",
    "kw_fashion_mnist": "29.131",
    "kw_har": ">= 9.26",
    "lsnc_quadrotor2d_output": "2.9245e+06",
    "marabou_KJ_TinyTaxiNet": "229.1",
    "marabou_cnn_max_mninst2": "38.449",
    "marabou_conv_mp1": "0.2781",
    "marabou_fc2": "0.56454",
    "marabou_mnist2x5_sigmoid": "235.74",
    "marabou_mnist5x20_leaky_relu": "41901",
    "marabou_model_german_traffic_sign_fast": "36.18",
    "marabou_softmax_last_layer": "64.319",
    "marabou_yizhak_net": "2.7503",
    "metaroom_4cnn_0_0": "1434",
    "mnist_fc_256x2": ">= 222",
    "mnist_fc_256x6": ">= 1600",
    "mnist_sigmoid_6x200": "2365.8",
    "mnist_verivital_avgpool": "54.49",
    "nn4sys_lindex": "251.05",
    "ort_cnn_mnist_pytorch": "15.774",
    "reach_gcas": "93.582",
    "reach_vdp": "17.412",
    "rl_dubinsrejoin": "118.83",
    "safenlp_medical": "25.899",
    "tll_n2_NM16_1_0": "2.3187",
    "vit_ibp_3_3_8": "146.46",
}
"""``>=``: what is asked for; else what a search of 12 seconds found with fewer climbs, on two loaded cores."""

_HEAD = """# Lower bounds: what the search finds

`python benchmarks/lower.py`: secants between two float64 points, proven with outward rounding (l2, all inputs), one thread. Seconds: the
limit of computing time, and the most that a seed took. The last column is what is asked for (>=) or what an earlier search of 12 s found.

| network | limit s | by seed | least | median | took s | reference |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("STEEPEST_SHARED", Path(__file__).resolve().parents[1] / "../shared"))
    parser.add_argument("folders", nargs="*", type=Path, default=[shared / "nets", shared / "published"])
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wanted = set(options.only.split(",")) if options.only else set(REFERENCE)
    nets = [net for folder in options.folders for net in sorted(folder.glob("*.onnx")) if net.stem in wanted]
    if not nets:
        print(f"there are no such networks in {', '.join(map(str, options.folders))}: give a folder, or set STEEPEST_SHARED")
        return 0
    for net in nets:
        values, seconds = [], []
        for seed in range(options.seeds):
            command = [sys.executable, "-c", _CHILD, str(net), str(options.seconds), str(seed)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if child.returncode:
                break
            value, spent = map(float, child.stdout.split())
            values.append(value)
            seconds.append(spent)
        if not values:
            print(f"| {net.stem} | refused", flush=True)
            continue
        each = ", ".join(f"{value:.5g}" for value in values)
        limits = f"| {net.stem} | {options.seconds:g} |"
        line = (
            f"{limits} {each} | {min(values):.5g} | {statistics.median(values):.5g} | {max(seconds):.1f} | {REFERENCE.get(net.stem, '')} |"
        )
        print(line, flush=True)
        if options.out:
            kept = [row for row in _rows(options.out) if not row.startswith(limits)]
            options.out.write_text(_HEAD + "\n".join(sorted([*kept, line])) + "\n")
    return 0


def _rows(table: Path) -> list[str]:
    lines = table.read_text().splitlines()[len(_HEAD.splitlines()) :] if table.exists() else []
    return [line for line in lines if line.startswith("|")]


if __name__ == "__main__":
    sys.exit(main())
