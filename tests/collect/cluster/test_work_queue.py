"""Items are drawn one at a time, and what is tried again comes before what is new."""

from mctrace.collect.cluster.work_queue import WorkQueue


def test_new_items_are_drawn_only_as_they_are_taken():
    drawn = []

    def items():
        for i in range(3):
            drawn.append(i)
            yield i

    queue = WorkQueue(items())
    first = queue.take()
    assert first is not None
    assert (first.item, drawn) == (0, [0])


def test_what_is_put_back_comes_first_and_what_has_to_wait_when_it_is_due():
    queue = WorkQueue(iter("abc"))
    a = queue.take()
    assert a is not None
    queue.put_back(a.failed())
    again = queue.take()
    assert again is not None
    assert (again.item, again.num_failures) == ("a", 1)
    queue.put_back(again.faulted(), pause=60)
    assert [queue.take().item, queue.take().item] == ["b", "c"]
    assert queue.take() is None
    assert not queue.is_empty
    assert 0 < queue.seconds_to_next(1) <= 1
    queue.put_back(again.lost())
    assert queue.seconds_to_next(1) == 0
    last = queue.take()
    assert last is not None
    assert (last.num_failures, last.num_losses) == (1, 1)
    assert queue.take() is None


def test_a_failure_ends_a_row_of_faults():
    attempt = WorkQueue(iter("a")).take()
    assert attempt is not None
    assert attempt.faulted().faulted().num_faults == 2
    assert attempt.faulted().failed().num_faults == 0
