#!/usr/bin/python3 -ISB
"""The harness's agent in the machine: answers JSON lines on the virtio-serial port named `vm`.

A request is `{"id": n, "op": …}`; its answer has the same ID. The agent finds the port by name in
sysfs and opens it again whenever it fails, so that it survives hibernation and a host that
disconnects.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import, and every boot waits for this program
    from typing import Any

    Message = dict[str, Any]

PORT = "vm"


def open_port() -> int:
    while True:
        for entry in os.scandir("/sys/class/virtio-ports"):  # noqa: TID251  # runs without the program, over paths
            try:
                with open(entry.path + "/name", encoding="ascii") as name:
                    if name.read().strip() == PORT:
                        return os.open("/dev/" + entry.name, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                pass
        time.sleep(0.2)


def read_text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def stages() -> float:
    """Seconds that the stages of this boot took, from their own report."""
    try:
        with open("/run/ephemeroot/boot.json", encoding="utf-8") as file:
            report = json.load(file)
        return float(sum(report[name]["seconds"] for name in ("wipe", "persist") if name in report))
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # no stage ran, or a test made the report unreadable


def op_ping(request: Message) -> Message:
    return {
        "event": "hello",
        "stages": stages(),
        "boot_id": read_text("/proc/sys/kernel/random/boot_id"),
        "uptime": float(read_text("/proc/uptime").split()[0]),
        "pid": os.getpid(),
    }


def op_run(request: Message) -> Message:
    process = subprocess.Popen(
        ["/bin/sh", "-c", request["command"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    try:
        out, err = process.communicate(timeout=request["timeout"])
        rc = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        rc = 124
    return {"rc": rc, "out": os.fsdecode(out), "err": os.fsdecode(err)}


def op_read(request: Message) -> Message:
    with open(request["path"], "rb") as file:
        return {"data": base64.b64encode(file.read()).decode()}


def op_write(request: Message) -> Message:
    with open(request["path"], "wb") as file:
        file.write(base64.b64decode(request["data"]))
    if request["mode"] is not None:
        os.chmod(request["path"], request["mode"])
    return {}


def op_start(request: Message) -> Message:
    """Start a command that ends or freezes this system: the answer is sent before it
    takes effect.
    """
    # The messages of the shutdown must reach the console, whatever loglevel= the machine was booted
    # with.
    with open("/proc/sys/kernel/printk", "w", encoding="ascii") as file:
        file.write("7")
    return {"then": request["command"]}


OPERATIONS = {"ping": op_ping, "run": op_run, "read": op_read, "write": op_write, "start": op_start}


def answer(line: bytes) -> Message:
    request = json.loads(line)
    try:
        reply = OPERATIONS[request["op"]](request)
    except Exception as error:  # noqa: BLE001 - whatever it is, the host must hear it
        reply = {"error": f"{type(error).__name__}: {error}"}
    reply["id"] = request.get("id")
    return reply


def send(port: int, reply: Message) -> None:
    data = json.dumps(reply).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


def serve(port: int) -> None:
    pending = b""
    while True:
        chunk = os.read(port, 1 << 16)
        if not chunk:  # the host is not connected
            time.sleep(0.2)
            continue
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if not line:
                continue
            reply = answer(line)
            then = reply.pop("then", None)
            send(port, reply)
            if then is not None:
                command = ["/bin/sh", "-c", then]
                subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def main() -> None:
    while True:
        port = open_port()
        try:
            serve(port)
        except (OSError, ValueError):
            time.sleep(0.2)
        finally:
            os.close(port)


if __name__ == "__main__":
    main()
