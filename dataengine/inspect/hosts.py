"""What the hosts of a build do and did: units under way, units done, and what was lost to the environment."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataengine.core.counting import counted
from dataengine.core.reasons import REASONS
from dataengine.pipeline.attempts import all_kinds, in_flight
from dataengine.pipeline.journal import Journal

_ENDED = {"worker_killed": "died", "unit_timeout": "ended at a deadline"}


def hosts(work: Path) -> dict[str, Any]:
    """What attempts and the journal of a build tell.

    Returns:
        in_flight: a row for each unit that is under way (pass, unit, attempt, clips, host, pid, seconds since it began,
        seconds since its last sign of life).
        hosts: a row for each host (units and clips done, seconds of work, units in flight, failures, set aside).
        lost: a row for each kind of trouble and host (kind, meaning, host, count, detail of the last).
        workers_lost: a row for each reason and host: worker_killed for workers that died, unit_timeout for those that
        were ended at a deadline (reason, meaning, host, count).
        gpus_aside: a row for each GPU that the last build set aside (host, gpu, detail).
        set_aside: a row for each unit that the last build set aside (pass, unit, kind, detail, host, time in UTC).
    """
    running = in_flight(work)
    rows: dict[str, dict[str, Any]] = {}
    lost: dict[tuple[str, str], dict[str, Any]] = {}
    ended: dict[tuple[str, str], dict[str, Any]] = {}
    gpus: list[dict[str, Any]] = []

    def row(host: str) -> dict[str, Any]:
        blank = {
            "host": host,
            "units": 0,
            "clips": 0,
            "seconds": 0.0,
            "in_flight": 0,
            "failures": 0,
            "set_aside": False,
        }
        return rows.setdefault(host, blank)

    for line in Journal(work).read():
        event, host = line["event"], line.get("host", "")
        if event == "build":
            gpus.clear()
            for one in rows.values():
                one["set_aside"] = False
        elif event == "worked":
            for name in ("units", "clips", "seconds"):
                row(host)[name] += line[name]
        elif event == "trouble":
            row(host)["failures"] += 1
            meaning = all_kinds().get(line["kind"], "")
            found = lost.setdefault(
                (line["kind"], host), {"kind": line["kind"], "meaning": meaning, "host": host, "count": 0}
            )
            found |= {"count": found["count"] + 1, "detail": line["detail"]}
        elif event == "host":
            row(host)["set_aside"] = True
        elif event == "gpu":
            gpus.append({"host": host, "gpu": line.get("gpu", ""), "detail": line.get("detail", "")})
        elif event == "lost":
            reason = line["reason"]
            blank = {"reason": reason, "meaning": REASONS.get(reason, ""), "host": host, "count": 0}
            ended.setdefault((reason, host), blank)["count"] += 1
    for attempt in running:
        row(attempt.host)["in_flight"] += 1
    return {
        "in_flight": [{"pass": one.pass_name, **asdict(one)} for one in running],
        "hosts": [rows[host] for host in sorted(rows)],
        "lost": sorted(lost.values(), key=lambda found: (-found["count"], found["kind"], found["host"])),
        "workers_lost": [ended[key] for key in sorted(ended)],
        "gpus_aside": gpus,
        "set_aside": units_set_aside(work),
    }


def units_set_aside(work: Path) -> list[dict[str, Any]]:
    """What the last build set aside: pass, unit, kind, detail, host and time (UTC) of each, in order."""
    aside: list[dict[str, Any]] = []
    for line in Journal(work).read():
        if line["event"] == "build":
            aside = []
        elif line["event"] == "set_aside":
            when = datetime.datetime.fromtimestamp(line["time"], datetime.UTC).isoformat(timespec="seconds")
            facts = {name: line[name] for name in ("pass", "unit", "kind", "detail")}
            aside.append({**facts, "host": line.get("host", ""), "time": when})
    return aside


def to_lines(found: dict[str, Any]) -> list[str]:
    """What `hosts` found, for people; nothing where nothing is under way and nothing was lost."""
    lines = []
    if found["in_flight"]:
        lines.append(f"{counted(len(found['in_flight']), 'unit')} under way")
        lines += [
            f"  {one['pass']:<12}{one['unit']}  on {one['host']} (pid {one['pid']}, attempt {one['attempt']}), "
            f"{counted(one['clips'], 'clip')}, since {one['seconds']:.0f} s, last sign of life {one['quiet']:.0f} s ago"
            for one in found["in_flight"]
        ]
    if len(found["hosts"]) > 1 or found["lost"] or found["workers_lost"] or found["in_flight"]:
        lines.append(f"{'host':<24}{'units done':>12}{'clips':>10}{'under way':>12}{'failures':>10}")
        lines += [
            f"{one['host'] or '?':<24}{one['units']:>12}{one['clips']:>10}{one['in_flight']:>12}{one['failures']:>10}"
            + ("  set aside" if one["set_aside"] else "")
            for one in found["hosts"]
        ]
    if found["lost"]:
        lines.append("lost to the environment, by kind and host")
        lines += [
            f"  {one['kind']:<20}{one['count']:>6}  {one['host'] or '?'}  (last: {one['detail']})"
            for one in found["lost"]
        ]
    lines += [
        f"{counted(one['count'], 'worker')} {_ENDED.get(one['reason'], one['reason'])} on {one['host'] or '?'} "
        f"({one['reason']})"
        for one in found["workers_lost"]
    ]
    lines += [f"set aside: {one['detail']}" for one in found["gpus_aside"]]
    lines += [f"set aside: {one['pass']} {one['unit']} ({one['kind']}: {one['detail']})" for one in found["set_aside"]]
    return lines
