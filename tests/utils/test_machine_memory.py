"""A control group's limit counts, where there is one."""

import pytest

from causalcine_jax.utils import machine_memory
from causalcine_jax.utils.machine_memory import free_memory, memory_size

GB = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files below the root that machine_memory reads: 64 GB free."""
    monkeypatch.setattr(machine_memory, "ROOT", tmp_path)
    monkeypatch.setattr(
        machine_memory.os, "sysconf", {"SC_PHYS_PAGES": 32, "SC_PAGE_SIZE": 4 * GB}.get
    )

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("proc/meminfo", f"MemAvailable: {64 * GB // 1024} kB\nSwapFree: 0 kB\n")
    return write


def test_without_a_limit_it_is_the_machines(machine):
    assert (memory_size(), free_memory()) == (128 * GB, 64 * GB)
    machine("proc/self/cgroup", "0::/user/run\n")
    machine("sys/fs/cgroup/user/run/memory.max", "max\n")
    machine("sys/fs/cgroup/user/run/memory.current", f"{GB}\n")
    assert (memory_size(), free_memory()) == (128 * GB, 64 * GB)


@pytest.mark.parametrize("group", ["", "user/run/", "user/"], ids=["top", "own", "parent"])
def test_version_2(machine, group):
    machine("proc/self/cgroup", "0::/user/run\n")
    machine(f"sys/fs/cgroup/{group}memory.max", f"{8 * GB}\n")
    machine(f"sys/fs/cgroup/{group}memory.current", f"{6 * GB}\n")
    assert (memory_size(), free_memory()) == (8 * GB, 2 * GB)
    machine(
        f"sys/fs/cgroup/{group}memory.stat",
        f"anon 1\ninactive_file {2 * GB}\nactive_file {GB}\nslab 2\n",
    )
    assert free_memory() == 5 * GB


def test_version_1_and_a_group_that_is_over_its_limit(machine):
    machine("proc/self/cgroup", "5:cpu:/a\n4:memory,hugetlb:/job\n0::/\n")
    folder = "sys/fs/cgroup/memory/job"
    machine(f"{folder}/memory.limit_in_bytes", f"{2 * GB}\n")
    machine(f"{folder}/memory.usage_in_bytes", f"{3 * GB}\n")
    machine("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    machine("sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n")
    assert (memory_size(), free_memory()) == (2 * GB, 0)
