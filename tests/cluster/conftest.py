"""A cluster of three Ray nodes on this machine's loopback, as real processes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from denoise.cluster import LOOPBACK


@dataclass
class Nodes:
    """The cluster; `kill` ends a node that is not the head's."""

    cluster: Any
    workers: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self) -> None:
        self.workers.append(self.cluster.add_node(num_cpus=1))

    def kill(self) -> None:
        """At once, with all that runs on it; another takes its place for the next test."""
        node = self.workers.pop(0)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="session")
def three_nodes() -> Iterator[Nodes]:
    os.environ.update(LOOPBACK)
    from ray.cluster_utils import Cluster

    nodes = Nodes(Cluster(initialize_head=True, head_node_args={"num_cpus": 1}))
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


@pytest.fixture
def nodes(three_nodes) -> Iterator[Nodes]:
    """Three nodes that live, and a driver that is connected to them."""
    import ray

    while len(three_nodes.workers) < 2:
        three_nodes.add()
    three_nodes.cluster.wait_for_nodes()
    ray.init(three_nodes.address, logging_level="ERROR", log_to_driver=False)
    yield three_nodes
    ray.shutdown()
