"""The programme by psycopg2 and by psycopg 3, as MODE says."""
import contextlib
import datetime
import decimal
import io
import json
import logging
import os
import re
import uuid

env = os.environ
mode = env["MODE"]
three = mode.startswith("psycopg3")
if three:
    import psycopg as driver
    from psycopg.types.json import Jsonb as Json
else:
    import psycopg2 as driver
    from psycopg2.extras import Json, register_uuid

    register_uuid()
# It warns of what is printed already, and not always.
logging.getLogger("psycopg").setLevel(logging.ERROR)
# All in one pipeline, which reads without ending it; or each step in one of its own.
pipelined = mode == "psycopg3-pipeline"
pipelines = mode == "psycopg3-pipelines"
autocommit = mode != "psycopg2" and mode != "psycopg3-transactions"

types = {
    "0": lambda v: None, "i": int, "s": str, "b": lambda v: v == "true", "x": bytes.fromhex, "f": float, "m": decimal.Decimal,
    "d": datetime.date.fromisoformat, "t": datetime.datetime.fromisoformat, "u": uuid.UUID, "j": lambda v: Json(json.loads(v)),
    "a": lambda v: v.split(","),
}


def value(arg):
    return types[arg[0]](arg[2:])


def placeholders(sql):
    return re.sub(r"\$\d+", "%s", sql)


def show(v):
    return "NULL" if v is None else str(v)


def said(e):
    if isinstance(e, driver.Error):
        state = e.sqlstate if three else e.pgcode
        return "ERROR %s %s" % (state, e.diag.message_primary or type(e).__name__)
    raise e


def run(conn, cursor, steps):
    inside = False
    steps = iter(steps + [["end"]])
    step = next(steps)
    while step[0] != "end":
        what, rest, after = step[0], step[1:], next(steps)
        text = None
        try:
            if what == "own":
                what = "query" if env.get("WALPROXY") else ""
            if what in ("simple", "exec"):
                with conn.pipeline() if pipelines else contextlib.nullcontext():
                    if what == "simple":
                        cursor.execute(rest[1])
                    else:
                        cursor.execute(placeholders(rest[1]), [value(a) for a in rest[2:]])
                text = cursor.rowcount
            elif what == "query":
                cursor.execute(placeholders(rest[1]), [value(a) for a in rest[2:]])
                text = "; ".join("|".join(show(v) for v in row) for row in cursor.fetchall())
            elif what == "batch":
                rows = []
                while after[0] == "+":
                    rows.append([value(a) for a in after[1:]])
                    after = next(steps)
                cursor.executemany(placeholders(rest[1]), rows)
                text = cursor.rowcount
            elif what == "begin":
                inside = True
                if autocommit:
                    cursor.execute("BEGIN")
            elif what in ("commit", "rollback"):
                inside = False
                if autocommit:
                    cursor.execute(what)
                elif what == "commit":
                    conn.commit()
                else:
                    conn.rollback()
            elif what == "copyin" and pipelined or what == "copyout" and pipelined:
                text = "not in a pipeline"
            elif what == "copyin":
                data = "".join(a[2:].replace("|", "\t") + "\n" for a in rest[2:])
                if three:
                    with cursor.copy(rest[1]) as copy:
                        copy.write(data)
                else:
                    cursor.copy_expert(rest[1], io.StringIO(data))
                text = cursor.rowcount
            elif what == "copyout":
                if three:
                    with cursor.copy(rest[1]) as copy:
                        data = b"".join(bytes(c) for c in copy).decode()
                else:
                    to = io.StringIO()
                    cursor.copy_expert(rest[1], to)
                    data = to.getvalue()
                text = data.replace("\t", "|").replace("\n", ";")
            if not autocommit and not inside:
                conn.commit()
        except Exception as e:
            text = said(e)
            if not autocommit and not inside:
                conn.rollback()
        if text is not None:
            print("%s: %s" % (rest[0], text))
        step = after


def main():
    with open(env["STEPS"], encoding="utf-8") as f:
        steps = [line.rstrip("\n").split("\t") for line in f if line.strip() and line[0] != "#"]
    conn = driver.connect("")  # what libpq's variables say
    conn.autocommit = autocommit
    if three and mode == "psycopg3-client":
        cursor = driver.ClientCursor(conn)
    elif three and mode == "psycopg3-binary":
        cursor = conn.cursor(binary=True)
    else:
        cursor = conn.cursor()
    if pipelined:
        with conn.pipeline():
            run(conn, cursor, steps)
    else:
        run(conn, cursor, steps)
    conn.close()


main()
