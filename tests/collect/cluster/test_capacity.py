"""An actor has to fit on one node, whatever the cluster has together."""

import pytest

from mctrace.collect.cluster.capacity import ClusterNode, Needs, free, num_fitting, too_large


def node(
    cpus: float, gpus: float = 0, free_cpus: float | None = None, free_gpus: float | None = None
) -> ClusterNode:
    total = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    has = {"CPU": cpus if free_cpus is None else free_cpus, "GPU": gpus if free_gpus is None else free_gpus}
    return ClusterNode("0123456789abcdef", "host", total, has)


@pytest.mark.parametrize(
    ("nodes", "needs", "num"),
    [
        ([node(1), node(1)], Needs(1, 0), 2),
        ([node(1), node(1)], Needs(2, 0), 0),
        ([node(8, 4), node(64)], Needs(1, 1), 4),
        ([node(8, 4)], Needs(1, 0.5), 8),
        ([node(8, 4)], Needs(1, 0.1), 8),
        ([node(40, 1)], Needs(0.1, 0.1), 10),
        ([], Needs(1, 0), 0),
    ],
)
def test_actors_are_counted_node_by_node(nodes, needs, num):
    assert num_fitting(nodes, needs) == num
    assert (too_large(nodes, needs) is None) == (num > 0)


def test_what_no_node_has_is_named():
    two = [node(1), node(1)]
    assert too_large(two, Needs(2, 0)) == "no node of 2 has 2 CPU for one actor (the largest has 1 CPU)"
    assert "1 GPU and 1 CPU" in str(too_large(two, Needs(1, 1)))
    assert str(too_large(two, Needs(1, 1))).endswith("(the largest has 0 GPU)")
    apart = [node(1, 4), node(8)]
    assert "together on one node" in str(too_large(apart, Needs(2, 1)))


def test_what_is_free_is_summed_over_the_cluster_for_the_line_that_a_wait_prints():
    nodes = [node(8, 4, 2, 1), node(8, 4, 3, 4)]
    assert free(nodes, Needs(1, 1)) == "the cluster has 5 GPU and 5 CPU free"
