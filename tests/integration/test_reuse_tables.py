"""The tables of outputs that are used again: kept by several at once, found word for word, and forgotten."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from corpusmill.errors import LeaseLost
from corpusmill.texts import text_hash
from db import reuse, shards, turns
from db.engine import Engine, reading, transact
from db.reuse import Keeping, Output, Scope
from tests.integration.reuse_house import House

SCOPE = Scope(hash="a" * 64, description={"model": "echo", "task": "classification", "revision": "1", "runtime": {}})


def test_a_worker_that_lost_its_lease_leaves_no_output(database: Engine, house: House) -> None:
    house.job(["a", "b"])
    late = transact(database, lambda connection: turns.claim_next(connection, owner="late", lease=60))
    assert late is not None
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE shards SET attempt = attempt + 1, owner = 'other'")
    keeping = Keeping(scope=SCOPE, outputs={text_hash("a"): output("1")})
    with pytest.raises(LeaseLost):
        transact(
            database,
            lambda connection: shards.finish(connection, late, rows=[], usage={}, partial={}, keeping=keeping),
        )
    assert house.kept() == 0


def output(label: str) -> Output:
    return Output(output={"label": label, "score": 0.1}, n_tokens=1, n_segments=1, truncated=False)


def test_two_workers_may_keep_the_same_texts_at_once(database: Engine, house: House) -> None:
    """Whatever order they have them in, neither waits for the other for ever, and the first one's outputs stay."""
    hashes = [text_hash(str(number)) for number in range(400)]
    start, errors = threading.Barrier(4), []

    def work(order: int) -> None:
        mine = sorted(hashes, reverse=bool(order % 2))
        start.wait()
        try:
            for some in (mine[:200], mine[100:300], mine[200:]):
                keeping = Keeping(scope=SCOPE, outputs={each: output(str(order)) for each in some}, used=mine[:50])
                transact(database, lambda connection, keeping=keeping: reuse.keep(connection, keeping))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 — it is the test's to show
            errors.append(error)

    threads = [threading.Thread(target=work, args=(order,)) for order in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert house.kept() == len(hashes)
    with reading(database) as connection:
        before = reuse.find(connection, SCOPE, hashes)
    assert set(before) == set(hashes)
    keeping = Keeping(scope=SCOPE, outputs=dict.fromkeys(hashes, output("late")))
    transact(database, lambda connection: reuse.keep(connection, keeping))
    with reading(database) as connection:
        after = reuse.find(connection, SCOPE, hashes)
    assert {key: value.output for key, value in after.items()} == {key: value.output for key, value in before.items()}


def test_an_output_comes_back_word_for_word(database: Engine) -> None:
    odd = {"summary": "NUL \0, “quotes”, \U0001f600 and \\u0000", "scores": {"z": 0.1 + 0.2, "a": 1e-300, "10": 1.0}}
    keeping = Keeping(scope=SCOPE, outputs={b"x" * 16: Output(output=odd, n_tokens=3, n_segments=2, truncated=True)})
    transact(database, lambda connection: reuse.keep(connection, keeping))
    with reading(database) as connection:
        (found,) = reuse.find(connection, SCOPE, [b"x" * 16, b"y" * 16]).values()
    assert found.output == odd
    assert list(found.output["scores"]) == ["z", "a", "10"]
    assert (found.n_tokens, found.n_segments, found.truncated) == (3, 2, True)


def test_what_no_job_used_for_its_time_is_forgotten_and_what_was_used_stays(database: Engine, house: House) -> None:
    hashes = [text_hash(str(number)) for number in range(600)]
    keeping = Keeping(scope=SCOPE, outputs=dict.fromkeys(hashes, output("1")))
    transact(database, lambda connection: reuse.keep(connection, keeping))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE reused_outputs SET used_at = used_at - 1000")
    transact(database, lambda connection: reuse.keep(connection, Keeping(scope=SCOPE, used=hashes[:100])))
    gone = sum(
        transact(database, lambda connection, part=part: reuse.forget_unused(connection, seconds=500, part=part))  # type: ignore[misc]
        for part in range(reuse.SLICES)
    )
    assert gone == 500
    with reading(database) as connection:
        assert set(reuse.find(connection, SCOPE, hashes)) == set(hashes[:100])


def test_all_of_a_text_is_forgotten_in_every_scope(database: Engine, house: House) -> None:
    other = replace(SCOPE, hash="b" * 64)
    for scope in (SCOPE, other):
        keeping = Keeping(scope=scope, outputs=dict.fromkeys([b"a" * 16, b"b" * 16], output("1")))
        transact(database, lambda connection, keeping=keeping: reuse.keep(connection, keeping))  # type: ignore[misc]
    assert transact(database, lambda connection: reuse.forget_texts(connection, [b"a" * 16, b"c" * 16])) == 2
    assert house.kept() == 2
    for part in range(reuse.SLICES):
        for key in (1, 2):
            transact(database, lambda connection: reuse.forget_scope(connection, key, part=part))  # noqa: B023
    transact(database, reuse.forget_empty_scopes)
    with reading(database) as connection:
        assert reuse.scopes(connection) == []
