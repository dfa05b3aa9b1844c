"""The device: which is picked, which precision it gets, and how running out of its memory is known."""

from __future__ import annotations

import os

import pytest
import torch

from corpusmill.errors import InvalidSettings
from worker import device as devices
from worker.device import Device, dtype_for, free_bytes, is_device_lost, is_out_of_memory, pick_device, total_bytes

CPU = Device(kind="cpu")


def test_a_budget_follows_the_kind_of_device_unless_it_is_set() -> None:
    assert pick_device("cpu").batch_tokens == devices.BATCH_TOKENS["cpu"]
    assert pick_device("cpu", batch_tokens=77).batch_tokens == 77


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_where_there_is_none_and_auto_takes_the_cpu() -> None:
    assert pick_device("auto") == pick_device("cpu")
    with pytest.raises(InvalidSettings, match="sees no CUDA device"):
        pick_device("cuda")


def test_a_driver_without_a_usable_device_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver_present", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").kind == "cpu"


def test_threads_are_bounded_in_torch_and_for_libraries_that_start_later(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "9")
    before = torch.get_num_threads()
    try:
        pick_device("cpu", threads=1)
        assert torch.get_num_threads() == 1
        assert {os.environ[name] for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")} == {"1"}
    finally:
        torch.set_num_threads(before)


def test_a_name_is_torchs_own() -> None:
    assert (CPU.name, CPU.torch_device) == ("cpu", torch.device("cpu"))
    assert Device(kind="cuda", index=1).torch_device == torch.device("cuda", 1)


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert dtype_for(CPU) is torch.float32
    assert dtype_for(CPU, "bfloat16") is torch.bfloat16
    assert dtype_for(CPU, "float16") is torch.float16


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_a_gpu_computes_in_the_half_precision_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    assert dtype_for(Device(kind="cuda")) is dtype
    assert dtype_for(Device(kind="cuda"), "float32") is torch.float32


def test_free_memory_is_part_of_all_memory() -> None:
    assert 0 < free_bytes(CPU) <= total_bytes(CPU) * 1.01


def test_the_cpu_allocators_own_error_is_known_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)


def test_other_errors_are_not_taken_for_it() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    for error in (RuntimeError("shape mismatch"), ValueError("DefaultCPUAllocator: can't allocate memory")):
        assert not is_out_of_memory(error)
        assert not is_device_lost(error)


def test_a_device_side_assert_is_known_as_the_devices_end() -> None:
    assert is_device_lost(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert not is_device_lost(torch.OutOfMemoryError("CUDA out of memory"))
