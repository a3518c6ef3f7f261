"""JSON lines of `main.rs` and `peers.py` to one JSON file and one Markdown table.

    report.py RESULTS.jsonl OUT.json OUT.md
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def merge(lines: list[dict]) -> list[dict]:
    """One entry a runtime and case: the median over the rounds, the least, and the spread."""
    cases: dict[tuple, list[dict]] = {}
    for line in lines:
        cases.setdefault((line["side"], line["batch"], line["runtime"]), []).append(line)
    merged = []
    for (side, batch, runtime), rounds in cases.items():
        good = [r for r in rounds if "error" not in r]
        entry = {"side": side, "batch": batch, "runtime": runtime, "rounds": len(good)}
        if good:
            joules = [r["joules_per_frame"] for r in good if r.get("joules_per_frame") is not None]
            entry |= {
                "ms": statistics.median(r["ms"] for r in good),
                "ms_least": min(r["ms"] for r in good),
                "ms_most": max(r["ms"] for r in good),
                "ms_p95": statistics.median(r["ms_p95"] for r in good),
                "joules_per_frame": statistics.median(joules) if joules else None,
                "engine": good[-1]["engine"],
            }
        else:
            entry["error"] = rounds[-1]["error"]
        merged.append(entry)
    return sorted(merged, key=lambda e: (e["side"], e["batch"], e.get("ms", float("inf"))))


def table(entries: list[dict]) -> str:
    out = []
    for side, batch in sorted({(e["side"], e["batch"]) for e in entries}):
        here = [e for e in entries if (e["side"], e["batch"]) == (side, batch)]
        own = next((e["ms"] for e in here if e["runtime"] == "vovcam f16" and "ms" in e), None)
        out += [f"### {side}×{side}, batch {batch}", ""]
        out += ["| runtime | ms | rounds from–to | p95 | × vovcam f16 | mJ/frame |", "|---|---|---|---|---|---|"]
        for e in here:
            if "ms" not in e:
                out.append(f"| {e['runtime']} | – | {e['error']} | – | – | – |")
                continue
            ratio = f"{e['ms'] / own:.2f}" if own else "–"
            joules = e["joules_per_frame"]
            energy = f"{1e3 * joules:.1f}" if joules is not None else "–"
            spread = f"{e['ms_least']:.3f}–{e['ms_most']:.3f}"
            out.append(f"| {e['runtime']} | {e['ms']:.3f} | {spread} | {e['ms_p95']:.3f} | {ratio} | {energy} |")
        out.append("")
    engines = sorted({e["engine"] for e in entries if "engine" in e})
    return "\n".join(out + ["Measured with:", ""] + [f"- {engine}" for engine in engines]) + "\n"


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    results, to_json, to_table = map(Path, sys.argv[1:])
    lines = [json.loads(line) for line in results.read_text().splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"'{results}' holds no JSON line")
    entries = merge(lines)
    to_json.write_text(json.dumps(entries, indent=1) + "\n")
    to_table.write_text(table(entries))
    print(table(entries))


if __name__ == "__main__":
    main()
