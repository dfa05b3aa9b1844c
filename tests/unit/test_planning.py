"""The pure rules: shards, batches, status, turns. None of these tests touches a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpusmill.batches import plan_batches, plan_packs, restore_order
from corpusmill.queueing import (
    AFFINITY_SECONDS,
    OVERTAKING_SECONDS,
    Waiting,
    after_loss,
    choose,
    losses_of_half,
    overtakes,
)
from corpusmill.shards import ShardSize, Slice, halves, plan_shards
from corpusmill.status import ENDED, Counts, Intent, Status, progress_of, status_of

lengths = st.lists(st.integers(0, 500), max_size=200)
sizes = st.builds(ShardSize, documents=st.integers(1, 50), bytes=st.integers(1, 2_000))


@given(lengths, sizes)
def test_shards_cover_every_document_once_and_in_order(texts: list[int], size: ShardSize) -> None:
    pieces = list(plan_shards(texts, size))
    assert [position for piece in pieces for position in range(piece.start, piece.stop)] == list(range(len(texts)))
    assert all(left.stop == right.start for left, right in pairwise(pieces))


@given(lengths, sizes)
def test_a_shard_exceeds_its_bytes_only_with_a_single_document(texts: list[int], size: ShardSize) -> None:
    for piece in plan_shards(texts, size):
        assert len(piece) <= size.documents
        assert len(piece) == 1 or sum(texts[piece.start : piece.stop]) <= size.bytes


def test_a_corpus_without_documents_has_no_shards() -> None:
    assert list(plan_shards([], ShardSize(documents=5, bytes=5))) == []


@given(st.integers(0, 100), st.integers(2, 1_000))
def test_halves_cover_the_whole_and_differ_by_one_at_most(start: int, length: int) -> None:
    left, right = halves(Slice(start, start + length))
    assert (left.start, left.stop, right.stop) == (start, right.start, start + length)
    assert abs(len(left) - len(right)) <= 1


def test_a_single_document_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="halved"):
        halves(Slice(3, 4))


@given(lengths, st.integers(1, 1_000), st.integers(1, 20))
def test_batches_hold_each_text_once_within_the_budget(texts: list[int], budget: int, most: int) -> None:
    batches = plan_batches(texts, budget, most=most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(texts)))
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or max(texts[index] for index in batch) * len(batch) <= budget


@given(lengths, st.integers(1, 1_000), st.integers(1, 20))
def test_packs_hold_each_text_once_within_the_budget(texts: list[int], budget: int, most: int) -> None:
    packs = plan_packs(texts, budget, most=most)
    assert sorted(index for pack in packs for index in pack) == list(range(len(texts)))
    for pack in packs:
        own = [texts[index] for index in pack]
        assert own == sorted(own, reverse=True), "equal lengths stand side by side"
        assert len(own) <= most
        assert len(own) == 1 or (sum(own) <= budget and max(own) * len(own) <= 2 * budget)
    longest = [texts[pack[0]] for pack in packs]
    assert longest == sorted(longest, reverse=True)


@given(st.lists(st.integers(100, 200), min_size=1, max_size=100), st.integers(400, 1_000))
def test_packs_of_like_lengths_are_nearly_full(texts: list[int], budget: int) -> None:
    *full, _ = plan_packs(texts, budget)
    assert all(sum(texts[index] for index in pack) > budget - 200 for pack in full)


@given(lengths, st.integers(1, 1_000))
def test_outputs_of_batches_find_their_way_back(texts: list[int], budget: int) -> None:
    batches = plan_batches(texts, budget)
    outputs = [[f"{index}:{texts[index]}" for index in batch] for batch in batches]
    assert restore_order(batches, outputs) == [f"{index}:{length}" for index, length in enumerate(texts)]


@given(
    st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 3),
    st.sampled_from(Intent),
)  # fmt: skip
def test_a_job_has_ended_exactly_when_nothing_is_pending(
    succeeded: int, failed: int, cancelled: int, pending: int, running: int, intent: Intent
) -> None:
    counts = Counts(
        total=succeeded + failed + cancelled + pending, succeeded=succeeded, failed=failed, cancelled=cancelled,
        running=running,
    )  # fmt: skip
    status = status_of(intent, None, counts)
    assert (status in ENDED) == (pending == 0)
    assert counts.pending == pending
    assert 0 <= progress_of(counts) <= 1


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        (Counts(total=4, succeeded=4), Status.COMPLETED),
        (Counts(total=4, succeeded=3, failed=1), Status.COMPLETED_WITH_ERRORS),
        (Counts(total=4, failed=4), Status.FAILED),
        (Counts(total=4, succeeded=3, cancelled=1), Status.CANCELLED),
        (Counts(total=4, succeeded=3), Status.RUNNING),
        (Counts(total=4, running=1), Status.RUNNING),
        (Counts(total=4), Status.QUEUED),
        (None, Status.QUEUED),
    ],
)
def test_the_status_follows_from_the_counts(counts: Counts | None, status: Status) -> None:
    assert status_of(Intent.RUN, None, counts) is status


def test_a_fatal_error_outweighs_everything() -> None:
    assert status_of(Intent.CANCEL, "no weights", Counts(total=2, succeeded=1)) is Status.FAILED


def test_a_paused_job_is_paused_once_nothing_runs() -> None:
    assert status_of(Intent.PAUSE, None, Counts(total=4, running=1)) is Status.RUNNING
    assert status_of(Intent.PAUSE, None, Counts(total=4, succeeded=1)) is Status.PAUSED


def waiting(
    key: int, model: str = "a", priority: int = 0, waited: float = 0.0, *, fresh: bool = False
) -> Waiting:  # fmt: skip
    return Waiting(job_key=key, model=(model, "1"), priority=priority, waited=waited, fresh=fresh)


#: The seconds since model a was loaded.
LONG_AGO, JUST_NOW = {("a", "1"): 1_000.0}, {("a", "1"): 1.0}


def test_the_job_that_waited_longest_is_served_first() -> None:
    assert choose([waiting(1, waited=1), waiting(2, waited=5)], {}) == waiting(2, waited=5)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_loaded_model_is_preferred_until_another_job_has_waited_too_long(*, fresh: bool) -> None:
    other, loaded = waiting(1, "b", waited=AFFINITY_SECONDS - 1, fresh=fresh), waiting(2, "a", waited=0, fresh=fresh)
    assert choose([other, loaded], LONG_AGO) == loaded
    late = waiting(1, "b", waited=AFFINITY_SECONDS + 1, fresh=fresh)
    assert choose([late, loaded], LONG_AGO) == late
    assert choose([late, loaded], JUST_NOW) == loaded, "a model that was just loaded serves for a while"


def test_a_job_that_was_never_served_goes_before_all_of_its_priority() -> None:
    fresh = waiting(1, "b", fresh=True)
    assert choose([waiting(2, "a", waited=1), waiting(3, "b", waited=100), fresh], LONG_AGO) == fresh
    assert choose([fresh, waiting(2, "a", priority=1)], {}) == waiting(2, "a", priority=1)


def test_a_begun_job_that_has_waited_long_goes_before_new_ones_once_these_have_had_this_worker_for_long() -> None:
    fresh, begun = waiting(1, waited=2, fresh=True), waiting(2, waited=OVERTAKING_SECONDS + 1)
    assert choose([fresh, begun], LONG_AGO, overtaking=OVERTAKING_SECONDS + 1) == begun
    assert choose([fresh, begun], LONG_AGO, overtaking=1) == fresh, "its own long shard is no reason to be served again"
    served = waiting(2, waited=1)
    assert choose([fresh, served], LONG_AGO, overtaking=1_000) == fresh, "others serve it"


def test_priority_outweighs_a_loaded_model() -> None:
    urgent = waiting(1, "b", priority=1)
    assert choose([urgent, waiting(2, "a", waited=100)], LONG_AGO) == urgent


def test_a_new_job_overtakes_only_begun_ones_of_its_priority() -> None:
    new, begun = waiting(1, fresh=True), waiting(2)
    assert overtakes(new, [new, begun])
    assert not overtakes(begun, [new, begun])
    assert not overtakes(new, [new, waiting(3, fresh=True), waiting(4, priority=-1)])


def test_nothing_is_chosen_from_nothing() -> None:
    assert choose([], LONG_AGO) is None


@dataclass
class Device:
    """A device with room for one model, which is given a shard at a time, and who was served when."""

    clock: float = 0.0
    loaded: dict[tuple[str, str], float] = field(default_factory=dict)
    in_turn: float = 0.0
    claimed: dict[int, float] = field(default_factory=dict)
    served: list[tuple[float, Waiting]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    def serve(self, jobs: Sequence[tuple[int, str, float]], seconds: float) -> int:
        """Run a shard of one of these jobs, given by key, model and when it was made; the key of the one that was chosen."""
        rank = [
            Waiting(
                job_key=key, model=(model, "1"), priority=0, waited=self.clock - self.claimed.get(key, made),
                fresh=key not in self.claimed,
            )
            for key, model, made in jobs
        ]  # fmt: skip
        since = {model: self.clock - at for model, at in self.loaded.items()}
        job = choose(rank, since, overtaking=self.clock - self.in_turn)
        assert job is not None
        self.served.append((self.clock, job))
        self.claimed[job.job_key] = self.clock
        if job.model not in self.loaded:
            self.loaded = {job.model: self.clock}
            self.loads.append(self.clock)
        self.clock += seconds
        if not overtakes(job, rank):
            self.in_turn = self.clock
        return job.job_key


@given(st.lists(st.floats(0.5, 40.0), min_size=50, max_size=150), st.integers(1, 4))
def test_begun_jobs_have_their_share_of_a_stream_of_one_shard_jobs_that_never_ends(
    shards: list[float], begun: int
) -> None:
    device = Device()
    big = [(key, "a", 0.0) for key in range(begun)]
    for _ in big:
        device.serve(big, 1.0)
    for number, seconds in enumerate(shards):
        device.serve([*big, (1_000 + number, "a", device.clock)], seconds)
    turns = [at for at, job in device.served if job.job_key < begun]
    gaps = [later - earlier for earlier, later in pairwise([*turns, device.clock])]
    # what overtakes, the shard in progress when that has lasted long enough, and its own
    assert max(gaps) <= OVERTAKING_SECONDS + 2 * 40.0
    by_job = Counter(job.job_key for at, job in device.served if job.job_key < begun)
    assert max(by_job.values()) - min(by_job.values()) <= 1, "and they take turns"


@given(st.lists(st.floats(0.5, 30.0), min_size=1, max_size=60), st.floats(0.0, 1.0))
def test_a_new_job_waits_for_no_more_than_the_shard_in_progress_of_a_big_one(shards: list[float], share: float) -> None:
    device, big = Device(), (1, "a", 0.0)
    for seconds in shards:
        device.serve([big], seconds)
    made = device.clock - share * shards[-1]
    assert device.serve([big, (2, "b", made)], 1.0) == 2


@given(st.lists(st.sampled_from("ab"), min_size=20, max_size=80), st.floats(0.2, 5.0))
def test_one_shard_jobs_of_two_models_do_not_have_one_loaded_for_every_shard(models: list[str], seconds: float) -> None:
    device = Device()
    jobs = [(key, model, key * 1e-6) for key, model in enumerate(models)]
    while jobs:
        chosen = device.serve(jobs, seconds)
        jobs = [job for job in jobs if job[0] != chosen]
    tail = len(models) and device.loads[-1]  # the last load may be for want of the other model's jobs
    spans = [later - earlier for earlier, later in pairwise(device.loads) if later != tail]
    assert all(span >= AFFINITY_SECONDS for span in spans)


@given(st.integers(1, 4_096))
def test_any_poison_document_is_blamed_after_a_bounded_number_of_losses(documents: int) -> None:
    losses = total = 0
    while True:
        losses += 1
        total += 1
        verdict = after_loss(losses, documents)
        if verdict == "blame":
            break
        if verdict == "halve":
            documents = (documents + 1) // 2
            losses = losses_of_half(documents)
    assert documents == 1
    assert total <= 2 + 12 + 2
