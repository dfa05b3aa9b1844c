"""The device a worker runs on: which one, what fits it, which precision it is good at, and how running out of it shows.

Knows torch, which is imported only where it is needed, so that a worker which runs nothing but `echo` on a machine
without a GPU never pays for it. Must not know models, documents or jobs.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from corpusmill.errors import InvalidSettings

if TYPE_CHECKING:
    import torch

DeviceChoice = Literal["auto", "cpu", "cuda"]
DtypeChoice = Literal["auto", "float32", "float16", "bfloat16"]

#: Tokens, padding included, that go through the device together. A CPU is fastest while a batch stays in its cache; an
#: encoder on a GPU is bound by arithmetic from some thousand tokens on.
BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device. `index` counts the CUDA devices this process can see; `batch_tokens` is a batch's token budget."""

    kind: Literal["cpu", "cuda"]
    index: int = 0
    batch_tokens: int = BATCH_TOKENS["cpu"]

    @property
    def name(self) -> str:
        """`cpu` or `cuda:0`, as torch writes it."""
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def torch_device(self) -> torch.device:
        """The same device in torch's own type."""
        import torch

        return torch.device(self.name)


def pick_device(choice: DeviceChoice = "auto", *, batch_tokens: int = 0, threads: int = 0) -> Device:
    """The device that a setting names; `auto` is the first CUDA device this process can see, else the CPU.

    `batch_tokens` 0 leaves the budget to the kind of device; `threads` above 0 bounds the CPU threads of this process.
    Raises InvalidSettings where CUDA is asked for and not there.
    """
    use_threads(threads)
    kind: Literal["cpu", "cuda"] = "cpu"
    if choice != "cpu" and _driver_present() and _cuda_usable():
        kind = "cuda"
    if choice == "cuda" and kind == "cpu":
        raise InvalidSettings(
            "CORPUSMILL_DEVICE is cuda, but this process sees no CUDA device: install the driver and a CUDA build of "
            "torch, check CUDA_VISIBLE_DEVICES, or set it to auto or cpu."
        )
    return Device(kind=kind, batch_tokens=batch_tokens or BATCH_TOKENS[kind])


def _driver_present() -> bool:
    """Whether a GPU driver is installed, asked without the seconds that importing torch takes."""
    if Path("/dev/kfd").exists():  # AMD: a ROCm build of torch shows these devices as CUDA
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _cuda_usable() -> bool:
    import torch

    return torch.cuda.is_available()


def use_threads(threads: int) -> None:
    """Bound this process's CPU threads, torch's and the tokenizers', to `threads`; 0 leaves them as they are.

    Torch and tokenizers read the environment once, when they are first used; torch is told again if that is past.
    """
    if threads <= 0:
        return
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


#: glibc's names for what it hands back to the system at once, and its largest block that comes from the heap.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process keep the memory of one batch for the next: glibc gives blocks of a batch's size back to the system,
    and taking them anew costs a fault for every page (measured: 3 to 4 % of a packed DistilBERT's time, and twice that in
    int8). What is kept at most is a quarter of a gigabyte. Nothing is done where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def dtype_for(device: Device, asked: DtypeChoice = "auto") -> torch.dtype:
    """The precision to load weights in. An explicit wish wins.

    `auto` is float32 on a CPU (without matrix units for it, bfloat16 is about half as fast there), bfloat16 on CUDA
    devices of compute capability 8 and above, float16 on older ones.
    """
    import torch

    if asked != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[asked]
    if device.kind == "cpu":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device.index)
    return torch.bfloat16 if major >= 8 else torch.float16


def free_bytes(device: Device) -> int:
    """Memory that a new allocation may take: free on the GPU and in torch's own pool, or available to the host."""
    if device.kind == "cpu":
        return _host_available()
    import torch

    free, _ = torch.cuda.mem_get_info(device.index)
    return free + torch.cuda.memory_reserved(device.index) - torch.cuda.memory_allocated(device.index)


def total_bytes(device: Device) -> int:
    """All memory of the device, or of the host as far as this process may use it."""
    if device.kind == "cpu":
        return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _container_limit())
    import torch

    return int(torch.cuda.get_device_properties(device.index).total_memory)


def memory_use(device: Device) -> dict[str, int]:
    """Bytes that this process holds on the host (`resident`), and of its GPU what is `used` by anybody and there in all.

    It loads nothing: a process that has not used its GPU yet says nothing of it.
    """
    found = {}
    status = Path("/proc/self/status")
    if status.exists():
        resident = re.search(r"^VmRSS:\s+(\d+) kB$", status.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        found = {"resident": int(resident[1]) * 1024} if resident else {}
    if device.kind == "cuda" and "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            free, total = torch.cuda.mem_get_info(device.index)
            found |= {"device_used": total - free, "device_total": total}
    return found


def _container_limit() -> int:
    """The memory limit of the container this process runs in (cgroup v2), or no limit."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return int(text) if text.isdigit() else sys.maxsize


def _host_available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is full, so that a smaller batch may pass."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's CPU allocator and cuBLAS have no exception of their own
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator: can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


def is_device_lost(error: BaseException) -> bool:
    """Whether an error leaves the device unusable for this process: only a new process can go on."""
    torch = sys.modules.get("torch")  # an error of its own cannot come before it
    if torch is None:
        return False
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


def release(device: Device) -> None:
    """Give memory that nothing holds any more back to the device."""
    if device.kind == "cuda":
        import torch

        torch.cuda.empty_cache()
