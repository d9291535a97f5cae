"""Stands for a rank that trains, without Paddle. Usage: idle_rank.py DESCRIPTORS FOLDER FAULT.

It leaves its place, its epoch and its process in FOLDER and waits for ever in a TCP connection,
unless a file FOLDER/done is there: then it ends with the status in it. Rank 0 says that it has
saved when it finds a file FOLDER/saved, which it removes. FAULT: "deaf" is a rank 0 that never
leaves its first epoch; "lost" one that says in its first epoch that a connection broke; "reload"
one that loads its program anew after it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from llm_pretrain.parallel.comm import epochs, progress
from llm_pretrain.parallel.comm.epochs import EpochOver

control, places, *_ = map(int, sys.argv[1].split(","))
folder, fault = Path(sys.argv[2]), sys.argv[3]
seat = epochs.sit(socket.socket(fileno=control))
progress.leave_places_in(os.fdopen(places, "r+b", buffering=0, closefd=False))
seat.say(ready=True)
listener = socket.create_server(("127.0.0.1", 0))
outgoing = socket.create_connection(listener.getsockname())
incoming = listener.accept()[0]
while True:
    place = seat.take_place()
    rank = int(os.environ["PADDLE_TRAINER_ID"])
    try:
        with seat.in_epoch():
            epochs.began(0)
            epochs.stepped(1)
            progress.begin("the samples", 2)
            size = os.environ["PADDLE_TRAINERS_NUM"]
            note = f"{os.getpid()} {epochs.began_at()} {os.environ['PADDLE_MASTER']} {size}"
            (folder / f"{seat.epoch}-{rank}").write_text(note)
            if fault == "lost" and rank == 0 and seat.epoch == 1:
                time.sleep(0.5)
                assert epochs.is_over(by_lost_connection=True)
            while True:
                try:
                    if (folder / "done").exists():
                        break
                    if rank == 0 and (folder / "saved").exists():
                        (folder / "saved").unlink()
                        epochs.saved(1)
                    incoming.settimeout(0.05)
                    if not incoming.recv(1):
                        time.sleep(0.05)
                except TimeoutError:
                    pass
                except EpochOver:
                    if not (fault == "deaf" and rank == 0 and seat.epoch == 1):
                        raise
            status = int((folder / "done").read_text())
            seat.say(ended=status)
            sys.exit(status)
    except EpochOver:
        if fault == "reload" and rank == 0 and seat.epoch == 1:
            seat.say(loading=True)
            time.sleep(0.2)  # what the launcher says meanwhile is lost with this program
            os.execv(sys.executable, [sys.executable, *sys.argv])
        outgoing.close()
        outgoing = socket.create_connection(listener.getsockname())
        incoming = listener.accept()[0]
