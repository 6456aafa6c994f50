from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point
from penstock.record.sessions import sessions
from penstock.record.steady import Window

S = 10**9


def record(session, turn, sched_s, end_s, ended=None):
    return Record(
        request_id=f"{session}.{turn}",
        outcome=Outcome.FINISHED,
        sched_ns=sched_s * S,
        end_ns=end_s * S,
        session=session,
        turn=turn,
        session_end=ended,
    )


def cut(made, outcome):
    made.outcome = outcome
    return made


def point(*records):
    return Point(
        load=Load(kind="closed", concurrency=2),
        start_ns=0,
        stop_ns=100 * S,
        end_ns=100 * S,
        warmup=0,
        records=list(records),
    )


WINDOW = Window(start_ns=10 * S, end_ns=30 * S, steady=True, whole_run=False)


def test_completed_tasks_per_second_are_those_that_ended_in_the_window():
    told = sessions(
        point(
            record("early", 0, 1, 9, "completed"),
            record("a", 1, 12, 16, "completed"),  # records need not come in order
            record("a", 0, 8, 11),
            record("b", 0, 12, 20, "completed"),
            record("c", 0, 12, 21, "given_up"),
            record("d", 0, 12, 22, "broken"),
            record("late", 0, 25, 30, "completed"),
            record("goes on", 0, 25, 26),
            # Cut by the end of the run: its session was told that a request failed.
            cut(record("cut", 0, 25, 29, "broken"), Outcome.CANCELLED),
            cut(record("stopped", 0, 25, 29, "broken"), Outcome.UNFINISHED),
        ),
        WINDOW,
    )
    assert told == {
        "completed_per_s": 2 / 20,
        "ends": {"completed": 2, "given_up": 1, "broken": 1},
        "open": 4,  # "late" too: it ended when the window had closed
        "turns_mean": 1.5,
        "seconds_mean": 8.0,
        "seconds_p50": 8.0,
    }


def test_a_load_without_sessions_has_no_such_figure():
    alone = Record(request_id="1", sched_ns=0)
    assert sessions(point(alone), WINDOW) is None
