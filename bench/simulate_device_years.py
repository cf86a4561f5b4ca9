"""`simulate_device_years_per_second`: how fast one smart device's life is worked out.

Ten years of one registered device: monthly renewals, ID certificates, a lost cloud, a reduced
purchase and a restart each year, every change made into a line. The script is read once. No
peer does this; the figure stands alone. The aim is ten years in at most 50 ms, which is 200
device years a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from callpool.simulate.script import read_script
from callpool.simulate.smart import Simulation

YEARS = 10


def script() -> bytes:
    events = [{"at_days": 0, "do": "enable"}, {"at_days": 1, "do": "register"}]
    for year in range(YEARS):
        day = 365 * year
        events += [
            {"at_days": day + 40, "do": "cloud_down"},
            {"at_days": day + 62, "do": "cloud_up"},
            {"at_days": day + 200, "do": "purchase", "count": 90},
            {"at_days": day + 202, "do": "purchase", "count": 100},
            {"at_days": day + 300, "do": "restart"},
        ]
    return json.dumps(
        {"configured": 100, "purchased": 100, "until_days": 365 * YEARS, "events": events}
    ).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    read = read_script(script())
    lines = sum(1 for _ in Simulation(read).run())  # the first run warms up
    rates = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _line in Simulation(read).run():
            pass
        rates.append(YEARS / (time.perf_counter() - begun))
    rates.sort()
    ours = statistics.median(rates)
    figure = {
        "name": "simulate_device_years_per_second",
        "ours": round(ours, 1),
        "peer": None,
        "ratio": None,
        "interval": [round(rates[len(rates) // 20], 1), round(rates[-1 - len(rates) // 20], 1)],
        "unit": "device years/s",
        "how": f"{rounds} runs of {YEARS} years with {lines} lines each, "
        f"median {1000 * YEARS / ours:.1f} ms; interval: 5th to 95th percentile; aim 50 ms",
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
