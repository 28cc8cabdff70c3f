"""What the machine has to offer, seen through a fake NVML."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from conftest import Execute, Plug
from fake_nvml import FakeGpu

from rlsched.executor.devices import local_machine
from rlsched.executor.nvml import short_type
from rlsched.model import Share

A, B, C = FakeGpu("GPU-aaaa"), FakeGpu("GPU-bbbb"), FakeGpu("GPU-cccc")
OLD = FakeGpu("GPU-dddd", "Tesla V100-SXM2-16GB", 16)


def test_gpus_become_one_node_with_their_uuids(plug: Plug) -> None:
    """NVML is left closed, and the node has all cores and all memory."""
    nvml = plug([A, B])
    cluster, devices = local_machine()
    (node,) = cluster.nodes
    assert (node.gpus, node.gpu_type, node.gpu_memory, node.cpus, node.memory) == (2, "a100", 80.0, 8, 64.0)
    assert devices == (("GPU-aaaa", "GPU-bbbb"),)
    assert not nvml.open


def test_gpus_of_several_types_become_a_node_each(plug: Plug) -> None:
    """Cores and memory are split in proportion to the GPUs."""
    plug([A, OLD, B, C])
    machine = local_machine()
    nodes = [(n.gpus, n.gpu_type, n.cpus, n.memory) for n in machine.cluster.nodes]
    assert nodes == [(3, "a100", 6, 48.0), (1, "v100", 2, 16.0)]
    assert machine.devices == (("GPU-aaaa", "GPU-bbbb", "GPU-cccc"), ("GPU-dddd",))
    assert machine.visible([Share(0, (0, 2)), Share(1, (0,))]) == "GPU-aaaa,GPU-cccc,GPU-dddd"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("1,0", ("GPU-bbbb", "GPU-aaaa")),
        ("GPU-cccc", ("GPU-cccc",)),
        ("GPU-b", ("GPU-bbbb",)),
        ("2,-1,0", ("GPU-cccc",)),
    ],
)
def test_an_inherited_cuda_visible_devices_is_respected(
    setting: str, expected: tuple[str, ...], plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Indices, UUIDs and unique beginnings of UUIDs; -1 ends the list, as it does for CUDA."""
    plug([A, B, C])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert local_machine().devices == (expected,)


def test_an_inherited_device_that_does_not_exist_is_an_error(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running on CPU slots instead would be a surprise."""
    plug([A])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES names 'MIG-1234', expected one of the 1 GPUs"):
        local_machine()


def in_mig_mode() -> FakeGpu:
    """An A100 that is cut into two small instances and a larger one."""
    parts = [("MIG-1111", "1g.10gb", 10), ("MIG-2222", "1g.10gb", 10), ("MIG-3333", "3g.40gb", 40)]
    name = "NVIDIA A100-SXM4-80GB"
    instances = [FakeGpu(uuid, name, memory, profile=profile) for uuid, profile, memory in parts]
    return FakeGpu("GPU-eeee", name, instances=instances)


def test_a_gpu_in_mig_mode_is_replaced_by_its_instances(plug: Plug) -> None:
    """Each is a device with a UUID, a type and memory of its own."""
    plug([A, in_mig_mode()])
    machine = local_machine()
    kinds = [(node.gpu_type, node.gpus, node.gpu_memory) for node in machine.cluster.nodes]
    assert kinds == [("a100", 1, 80.0), ("a100-1g.10gb", 2, 10.0), ("a100-3g.40gb", 1, 40.0)]
    assert machine.devices == (("GPU-aaaa",), ("MIG-1111", "MIG-2222"), ("MIG-3333",))
    assert machine.visible([Share(1, (1,))]) == "MIG-2222"


def test_a_gpu_in_mig_mode_without_instances_offers_nothing(plug: Plug) -> None:
    plug([A, FakeGpu("GPU-eeee", instances=[])])
    assert local_machine().devices == (("GPU-aaaa",),)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("MIG-2222", (("MIG-2222",),)),
        ("MIG-3,GPU-a", (("MIG-3333",), ("GPU-aaaa",))),
        ("GPU-e", (("MIG-1111", "MIG-2222"), ("MIG-3333",))),
        ("1", (("MIG-1111", "MIG-2222"), ("MIG-3333",))),
    ],
)
def test_an_inherited_cuda_visible_devices_may_name_mig_instances(
    setting: str, expected: tuple[tuple[str, ...], ...], plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU that they are part of stands for all of them."""
    plug([A, in_mig_mode()])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert local_machine().devices == expected


@pytest.mark.parametrize("gpus", [None, []])
def test_without_gpus_there_is_a_slot_for_every_core(gpus: Sequence[FakeGpu] | None, plug: Plug) -> None:
    """Whether the driver is missing or finds nothing."""
    plug(gpus)
    machine = local_machine()
    (node,) = machine.cluster.nodes
    assert (node.gpus, node.gpu_type, node.cpus, node.memory) == (8, "cpu", 8, 64.0)
    assert machine.devices[0][:2] == ("cpu:0", "cpu:1")
    assert machine.visible([Share(0, (0, 1))]) == ""


def test_an_empty_cuda_visible_devices_leaves_cpu_slots(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    plug([A])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_machine().cluster.gpu_types == ("cpu",)


def test_slots_can_be_chosen(plug: Plug) -> None:
    """Then GPUs are left alone, and there is a core for every slot."""
    plug([A])
    (node,) = local_machine(slots=12).cluster.nodes
    assert (node.gpus, node.gpu_type, node.cpus) == (12, "cpu", 12)
    with pytest.raises(ValueError, match="slots is 0, expected 1 or more"):
        local_machine(slots=0)


def test_a_gpu_that_has_fallen_off_the_bus_is_left_out(plug: Plug, caplog: pytest.LogCaptureFixture) -> None:
    """The others keep their numbers."""
    plug([FakeGpu("GPU-gone", gone=True), A])
    assert local_machine().devices == (("GPU-aaaa",),)
    assert [record.message for record in caplog.records] == ["GPU 0 is not used, it cannot be read: GPU is lost"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("Tesla V100-PCIE-32GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada-generation"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
    ],
)
def test_types_are_called_what_people_call_them(name: str, expected: str) -> None:
    assert short_type(name) == expected


def test_a_task_sees_its_gpus_alone(plug: Plug, execute: Execute) -> None:
    """A gang sees all of its GPUs, a task without GPUs none, whatever the workflow file says."""
    plug([A, B])
    result = execute(
        """
        gang: {run: 'echo "$CUDA_VISIBLE_DEVICES $RLSCHED_GPUS"', gpus: 2}
        one: {run: 'echo "$CUDA_VISIBLE_DEVICES $RLSCHED_GPUS"', needs: gang, env: {CUDA_VISIBLE_DEVICES: 7}}
        none: {run: 'echo "[$CUDA_VISIBLE_DEVICES] $RLSCHED_GPUS"', gpus: 0, needs: one}
        """,
        slots=None,
    )
    logs = [unit.log.read_text() for unit in result.status.units if unit.log]
    assert logs == ["GPU-aaaa,GPU-bbbb 2\n", "GPU-aaaa 1\n", "[] 0\n"]
    assert result.status.devices == ("GPU-aaaa", "GPU-bbbb")


def test_a_request_that_no_gpu_meets_is_refused_before_anything_runs(plug: Plug, execute: Execute) -> None:
    """One sentence with file, line and field; there is no run directory afterwards."""
    plug([A, OLD])
    with pytest.raises(ValueError, match=r"flow.yaml:4: tasks.big: .*") as error:
        execute("small: {run: echo}\nbig: {run: echo, gpu_memory: 200GiB}")
    assert "\n" not in str(error.value)
