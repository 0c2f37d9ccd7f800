"""A user replaces paths while root works on them: no file that belongs to root is created, read,
chowned or linked.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import attack
import proof
from attack import ATTACKS, ELSEWHERE, Attack
from verb_machine import Image

pytestmark = [pytest.mark.requires_loop, pytest.mark.requires_program("cc")]

ROUNDS = int(os.environ.get("EPHEMEROOT_ROUNDS", proof.rounds(12, 1000)))


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attack.build(tmp_path_factory.mktemp("attacker"))


def test_every_writing_verb_is_attacked_or_writes_out_of_reach_of_users() -> None:
    attacked = {one.verb for one in ATTACKS}
    assert attacked | set(ELSEWHERE) == attack.writing_verbs() | {"diff"}
    assert not attacked & set(ELSEWHERE)


@pytest.mark.parametrize("one", ATTACKS, ids=lambda one: " ".join(one.argvs[0][:2]))
def test_a_user_gains_nothing_by_replacing_paths_during_a_verb(
    verb_image: Image, program: Path, one: Attack
) -> None:
    with verb_image.machine(f"attack {one.argvs[0]}", one.prepare, booted=one.booted) as machine:
        before, names = attack.canaries(machine), attack.links(machine)
        assert before
        rounds = max(4, round(ROUNDS * one.share))
        done = attack.attack(machine, one, program, rounds)
        assert "Traceback" not in done["said"], done["said"]
        assert set(done["codes"]) <= {"0", "1", "10"}, done
        assert sum(done["codes"].values()) == rounds
        # On a busy machine the attacker may win each round. It changes nothing before the next one.
        assert set(done["undisturbed"]) <= {"0", "10"}, done
        assert done["exchanges"] > rounds, "the attacker had no chance: this proves nothing"
        assert done["leaks"] == ""
        assert attack.canaries(machine) == before
        assert attack.links(machine) == names
        assert attack.readable_secrets(machine) == ""
        proof.record(f"round with an attacker: {' '.join(one.argvs[0][:2])}", rounds)
