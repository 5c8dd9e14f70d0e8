"""A signal that asks a program to leave: it leaves, wherever it was."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time
from pel_core.common.signals import exit_cleanly

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def generator():
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

def finalised():
    Last()

def generator_closed():
    next(generator())

def bare_except():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except:
        pass

def slow_cleanup():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for _ in range(30):
            time.sleep(0.01)
        try:
            {}["missing"]
        except KeyError:
            time.sleep(0.2)
        print("cleaned")

with exit_cleanly():
    {place}()
    for _ in range(200):
        time.sleep(0.01)
    print("went on")
"""


@pytest.mark.parametrize("place", ["finalised", "generator_closed", "bare_except", "slow_cleanup"])
def test_an_exit_that_was_swallowed_is_asked_for_again(place):
    program = PROGRAM.replace("{place}", place)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143
    assert done.stdout == ("cleaned\n" if place == "slow_cleanup" else "")
    assert done.stderr == "error: stopped by SIGTERM; nothing half-done was kept\n"
