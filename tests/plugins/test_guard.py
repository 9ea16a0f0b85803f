"""Who may end the process while the code of a package runs."""

from __future__ import annotations

import os
import threading

import pytest

from counterpoint.plugins.guard import ProcessExit, exits_refused

pytestmark = pytest.mark.kind("30")


def test_other_threads_and_child_processes_end_as_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    with exits_refused():
        with pytest.raises(ProcessExit, match=r"it calls os\._exit\(3\)"):
            os._exit(3)
        assert ended == []
        thread = threading.Thread(target=lambda: os._exit(4))
        thread.start()
        thread.join()
        assert ended == [4]
        here = os.getpid()
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: here + 1)
            os._exit(5)
        assert ended == [4, 5]
    os._exit(6)
    assert ended == [4, 5, 6]


def test_exits_are_as_before_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(ZeroDivisionError), exits_refused():
        raise ZeroDivisionError
    os._exit(7)
    assert ended == [7]
