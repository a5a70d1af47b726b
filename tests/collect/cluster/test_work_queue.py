"""Items are drawn one at a time, and what is tried again comes before what is new."""

from mctrace.collect.cluster.work_queue import WorkQueue


def test_new_items_are_drawn_only_as_they_are_taken():
    drawn = []

    def items():
        for i in range(3):
            drawn.append(i)
            yield i

    queue = WorkQueue(items())
    first = queue.take(is_idle=True)
    assert first is not None
    assert (first.item, drawn) == (0, [0])


def test_what_is_put_back_comes_first_and_what_has_to_wait_when_it_is_due():
    queue = WorkQueue(iter("abc"))
    a = queue.take(is_idle=True)
    assert a is not None
    queue.put_back(a.failed())
    again = queue.take(is_idle=True)
    assert again is not None
    assert (again.item, again.num_failures) == ("a", 1)
    queue.put_back(again.faulted(), pause=60)
    assert [queue.take(is_idle=True).item, queue.take(is_idle=True).item] == ["b", "c"]
    assert queue.take(is_idle=True) is None
    assert not queue.is_empty
    assert 0 < queue.seconds_to_next(1) <= 1
    queue.put_back(again.lost())
    assert queue.seconds_to_next(1) == 0
    last = queue.take(is_idle=True)
    assert last is not None
    assert (last.num_failures, last.num_losses) == (1, 1)
    assert queue.take(is_idle=True) is None


def test_a_failure_ends_a_row_of_faults():
    attempt = WorkQueue(iter("a")).take(is_idle=True)
    assert attempt is not None
    assert attempt.faulted().faulted().num_faults == 2
    assert attempt.faulted().failed().num_faults == 0


def test_a_suspect_waits_for_an_idle_worker_and_nobody_busy_gets_more_meanwhile():
    queue = WorkQueue(iter("ab"))
    suspect = queue.take(is_idle=True)
    assert suspect is not None
    assert not suspect.is_suspect
    queue.put_back(suspect.failed())
    assert queue.take(is_idle=False) is None
    again = queue.take(is_idle=True)
    assert again is not None
    assert (again.item, again.is_suspect) == ("a", True)
    behind = queue.take(is_idle=False)
    assert behind is not None
    assert behind.item == "b"
