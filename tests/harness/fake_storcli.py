"""A storcli64 of ours: keeps the state of controllers in a file and answers as the real one does.

Run as a program: `fake_storcli.py STATE WORDS… J`. Its columns, nesting, state words and phrases
are those of the real tool's documented JSON; its drives are made up. It is strict: a word that the
reference manual does not know is a syntax error.
"""

import hashlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]
GB = 1024**3
_STRIPS = tuple(str(2**power) for power in range(3, 11))


def make_drive(address: str, size: str = "446.625 GB", **changes: Any) -> Json:
    """Return a drive as the tool's columns show it."""
    row = {
        "EID:Slt": address,
        "DID": 10 + int(address.rpartition(":")[2]),
        "State": "UGood",
        "DG": "-",
        "Size": size,
        "Intf": "SATA",
        "Med": "SSD",
        "SED": "N",
        "PI": "N",
        "SeSz": "512B",
        "Model": "EXAMPLE SSD 480G    ",
        "Sp": "U",
        "Type": "-",
    }
    return {**row, **changes}


def make_volume(number: int, level: str, name: str, drives: list[str], naa: str) -> Json:
    return {"number": number, "level": level, "name": name, "drives": drives, "naa": naa}


def make_state(drives: list[Json], volumes: list[Json] = [], **changes: Any) -> Json:  # noqa: B006
    """Return a machine with one controller. `fail` maps a word to the failure that it gets."""
    return {"drives": drives, "volumes": volumes, "fail": {}, "init": [], "log": [], **changes}


def install(folder: Path, state: Json) -> Path:
    """Put the program into `folder`; return where it is. Its state is `state.json` beside it."""
    (folder / "state.json").write_text(json.dumps(state))
    program = folder / "storcli64"
    words = [sys.executable, "-IS", str(Path(__file__).resolve()), str(folder / "state.json")]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    return program


def read_state(folder: Path) -> Json:
    state: Json = json.loads((folder / "state.json").read_text())
    return state


def main(argv: list[str]) -> int:
    place = Path(argv[1])
    state = json.loads(place.read_text())
    words = argv[2:]
    assert words.pop() == "J"
    state["log"].append(" ".join(words))
    answer = answer_to(state, words)
    place.write_text(json.dumps(state))
    sys.stdout.write(json.dumps({"Controllers": [answer]}, indent=1) + "\n")
    return 0 if answer["Command Status"]["Status"] == "Success" else 46


def answer_to(state: Json, words: list[str]) -> Json:
    if state.get("absent"):
        return failure("No Controller found")
    target, verb = words[0], words[1:]
    for word, detail in state["fail"].items():
        if word in verb:
            key = "VD" if "/v" in target else "Ctrl"
            where = int(target.rpartition("/")[2][1:])
            phrase = {"delete": "Delete VD failed", "add": "Add VD Failed"}.get(word, "Failed")
            return failure(phrase, [{key: where, "Status": "Failed", **detail}])
    if (target, verb) == ("/call", ["show", "all"]):
        return success("None", controller(state))
    match verb:
        case ["show"] if target == "/c0/eall/sall":
            rows = [drive for drive in state["drives"] if drive["EID:Slt"][0] != " "]
            if not rows:
                return failure("No drive found!")
            return success("Show Drive Information Succeeded.", {"Drive Information": rows})
        case ["show"] if target == "/c0/sall":
            rows = [drive for drive in state["drives"] if drive["EID:Slt"][0] == " "]
            if not rows:
                return failure("No PD found.")
            return success("Show Drive Information Succeeded.", {"Drive Information": rows})
        case ["show", "all"] if target == "/c0/vall":
            if not state["volumes"]:
                return {"Command Status": status("Success", "No VDs have been configured.")}
            return success("None", volumes(state))
        case ["add", "vd", *options] if target == "/c0":
            return add(state, options)
    if (found := re.fullmatch(r"/c0/v(\d+)", target)) is None:
        return failure("syntax error, unexpected TOKEN_UNKNOWN")
    return about_volume(state, int(found[1]), verb)


def about_volume(state: Json, number: int, verb: list[str]) -> Json:
    volume = next((one for one in state["volumes"] if one["number"] == number), None)
    if volume is None:
        return failure(
            "None", [{"VD": number, "Status": "Failed", "ErrCd": 255, "ErrMsg": "VD doesn't exist"}]
        )
    match verb:
        case ["delete", "force"]:
            state["volumes"].remove(volume)
            still = {address for one in state["volumes"] for address in one["drives"]}
            for drive in state["drives"]:
                if drive["EID:Slt"] in set(volume["drives"]) - still:
                    drive.update({"State": "UGood", "DG": "-"})
            return success("Delete VD succeeded", None)
        case ["start", "init", *options] if set(options) <= {"full", "force"}:
            return success("Start INIT Operation Success", None)
        case ["show", "init"]:
            running = bool(state["init"])
            row = {
                "VD": number,
                "Operation": "INIT",
                "Progress%": state["init"].pop(0) if running else "-",
                "Status": "In progress" if running else "Not in progress",
                "Estimated Time Left": "3 Minutes" if running else "-",
            }
            return success("None", [row])
    return failure("syntax error, unexpected TOKEN_UNKNOWN")


def add(state: Json, options: list[str]) -> Json:
    """Make a volume by the grammar of `add vd` in the reference manual."""
    values = dict(option.partition("=")[::2] for option in options if "=" in option)
    plain = [option for option in options if "=" not in option]
    if (
        not re.fullmatch(r"raid(?:0|1|5|6|10)", values.pop("type", ""))
        or values.pop("size", "all") != "all"
        or not set(plain) <= {"wt", "wb", "awb", "ra", "nora", "direct", "cached", "force"}
        or values.get("strip", "64") not in _STRIPS
        or not set(values) <= {"name", "drives", "strip", "pdperarray"}
        or not re.fullmatch(r"[\w-]{0,15}", values.get("name", ""))
    ):
        return failure("syntax error, unexpected $end")
    level = options[0].partition("=")[2].upper()
    if level == "RAID10" and values.get("pdperarray") != "2":
        return failure(
            "Add VD Failed",
            [{"Ctrl": 0, "Status": "Failed", "ErrCd": 59, "ErrMsg": "Invalid PDs per array"}],
        )
    rows = {drive["EID:Slt"].replace(" ", "").lstrip(":"): drive for drive in state["drives"]}
    asked = values["drives"].split(",")
    for address in asked:
        if address not in rows or rows[address]["State"] != "UGood" or rows[address]["DG"] != "-":
            detail = {
                "Ctrl": 0,
                "Status": "Failed",
                "ErrCd": 255,
                "ErrMsg": f"Drive {address} is not usable",
            }
            return failure("Add VD Failed", [detail])
    numbers = {volume["number"] for volume in state["volumes"]}
    number = next(n for n in state.get("numbers", range(240)) if n not in numbers)
    naa = "600605b0" + hashlib.sha256(f"{number}{values.get('name')}".encode()).hexdigest()[:24]
    drives = [rows[address]["EID:Slt"] for address in asked]
    state["volumes"].append(make_volume(number, level, values.get("name", ""), drives, naa))
    for address in asked:
        rows[address].update({"State": "Onln", "DG": number})
    return success("Add VD Succeeded.", None)


def controller(state: Json) -> Json:
    return {
        "Basics": {
            "Controller": 0,
            "Model": "MegaRAID 9361-8i",
            "Serial Number": "SV00000001",
            "Current Controller Date/Time": "11/24/2026, 22:00:00",
            "SAS Address": "500605b000000001",
            "PCI Address": "00:65:00:00",
        },
        "Version": {
            "Firmware Package Build": "24.21.0-0126",
            "Firmware Version": "4.680.00-8519",
            "Driver Name": "megaraid_sas",
        },
        "Status": {"Controller Status": "Optimal"},
        "Virtual Drives": len(state["volumes"]),
        "Physical Drives": len(state["drives"]),
    }


def volumes(state: Json) -> Json:
    data: Json = {}
    for volume in state["volumes"]:
        number = volume["number"]
        members = [drive for drive in state["drives"] if drive["EID:Slt"] in volume["drives"]]
        amount, unit = members[0]["Size"].split()
        factor = {"RAID0": len(members), "RAID1": 1, "RAID5": len(members) - 1}
        count = factor.get(volume["level"], len(members) // 2)
        size = float(amount) * count
        data[f"/c0/v{number}"] = [
            {
                "DG/VD": f"{number}/{number}",
                "TYPE": volume["level"],
                "State": "Optl",
                "Access": "RW",
                "Consist": "No",
                "Cache": "RWBD",
                "Cac": "-",
                "sCC": "ON",
                "Size": f"{size:.3f} {unit}",
                "Name": volume["name"],
            }
        ]
        data[f"PDs for VD {number}"] = members
        data[f"VD{number} Properties"] = {
            "Strip Size": "256 KB",
            "Number of Blocks": int(size * (GB if unit == "GB" else 1024 * GB)) // 512,
            "VD has Emulated PD": "Yes",
            "Span Depth": 1,
            "Number of Drives Per Span": len(members),
            "Write Cache(initial setting)": "WriteBack",
            "Disk Cache Policy": "Disk's Default",
            "Encryption": "None",
            "Data Protection": "Disabled",
            "Active Operations": "None",
            "Exposed to OS": "Yes",
            "Creation Date": "24-11-2026",
            "Creation Time": "10:00:00 PM",
            "Emulation type": "default",
            "Is LD Ready for OS Requests": "Yes",
            "SCSI NAA Id": volume["naa"],
        }
    return data


def status(word: str, description: str) -> Json:
    return {
        "CLI Version": "007.1907.0000.0000 Sep 13, 2021",
        "Operating system": "Linux 6.12.0-amd64",
        "Controller": 0,
        "Status": word,
        "Description": description,
    }


def success(description: str, data: Any) -> Json:
    answer: Json = {"Command Status": status("Success", description)}
    return answer if data is None else {**answer, "Response Data": data}


def failure(description: str, details: list[Json] | None = None) -> Json:
    head = status("Failure", description)
    return {"Command Status": {**head, "Detailed Status": details} if details else head}


if __name__ == "__main__":
    sys.exit(main(sys.argv))
