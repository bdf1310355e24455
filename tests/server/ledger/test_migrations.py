"""Guards how the tables come to be: once, by one of several servers, equal to what the code says, never backwards."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import column, inspect, table, text

from server.ledger.entries import Row
from server.ledger.ledger import Ledger
from server.ledger.migrate import FOLDER, VERSION_TABLE
from server.ledger.problem import NEWER, LedgerProblem
from server.ledger.tables import METADATA
from tests.server.ledger.samples import all_rows, beside, entry, opened, played

ROOT = Path(__file__).resolve().parents[3]
REVISION = table(VERSION_TABLE, column("version_num"))
OPEN_AND_RESERVE = """
import asyncio, sys
from server.ledger.ledger import Ledger
from tests.server.ledger.samples import entry

async def play():
    ledger = Ledger(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await ledger.open()
    await ledger.reserve([entry(sys.argv[2])])
    await ledger.close()

asyncio.run(play())
"""


def test_what_the_migrations_make_is_what_the_code_says(url: str) -> None:
    async def play(_: Ledger) -> None:
        with beside(url) as connection:
            options = {"version_table": VERSION_TABLE, "compare_server_default": True}
            assert compare_metadata(MigrationContext.configure(connection, opts=options), METADATA) == []
            looked = inspect(connection)
            for one_table in METADATA.tables.values():
                checks = {check["name"] for check in looked.get_check_constraints(one_table.name)}
                assert checks == {one.name for one in one_table.constraints if "check" in type(one).__name__.lower()}

    played(url, play)


def test_opening_again_changes_nothing(url: str) -> None:
    async def reserve(ledger: Ledger) -> None:
        await ledger.reserve([entry()])

    played(url, reserve)
    for _ in range(3):
        assert [row.entry for row in played(url, all_rows)] == [entry()]


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(url: str) -> None:
    async def reserve(ledger: Ledger) -> None:
        await ledger.reserve([entry()])

    def at_revision(name: str) -> None:
        with beside(url) as connection:
            connection.execute(REVISION.update().values(version_num=name))
            connection.commit()

    async def refused() -> None:
        ledger = Ledger(url)
        with pytest.raises(LedgerProblem, match=NEWER):
            await ledger.open()
        await ledger.close()

    played(url, reserve)
    with beside(url) as connection:
        (newest,) = connection.execute(REVISION.select()).scalars()
    at_revision("9999")
    asyncio.run(refused())
    with beside(url) as connection:
        assert connection.execute(REVISION.select()).scalars().all() == ["9999"]
        assert connection.execute(text("SELECT outcome FROM ledger_entries")).scalars().all() == [None]
    at_revision(newest)
    assert len(played(url, all_rows)) == 1


def test_other_users_of_the_database_keep_their_tables_and_their_own_revisions(url: str) -> None:
    with beside(url) as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        connection.commit()
    assert played(url, all_rows) == []
    with beside(url) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["theirs"]


def test_a_database_whose_migration_failed_half_way_is_as_before(url: str) -> None:
    with beside(url) as connection:
        connection.execute(text("CREATE TABLE ledger_attempts (theirs INTEGER)"))
        connection.commit()

    async def fail() -> None:
        with pytest.raises(LedgerProblem):
            await Ledger(url).open()

    asyncio.run(fail())
    with beside(url) as connection:
        assert inspect(connection).get_table_names() == ["ledger_attempts"]


@pytest.mark.parametrize("round_", [1, *(pytest.param(number, marks=pytest.mark.whole) for number in range(2, 6))])
def test_of_processes_that_open_at_once_one_migrates_and_all_work(url: str, round_: int) -> None:  # noqa: ARG001
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_RESERVE, url, f"req_{number}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("\n")
        server.stdin.flush()
    for server in servers:
        _, complaints = server.communicate(timeout=60)
        assert server.returncode == 0, complaints
    assert len(played(url, all_rows)) == 2


def test_ten_ledgers_of_one_process_open_at_once(url: str) -> None:
    async def play() -> list[Row]:
        ledgers = [Ledger(url) for _ in range(10)]
        await asyncio.gather(*(ledger.open() for ledger in ledgers))
        await asyncio.gather(*(ledger.reserve([entry(f"req_{n}")]) for n, ledger in enumerate(ledgers)))
        rows = await all_rows(ledgers[0])
        await asyncio.gather(*(ledger.close() for ledger in ledgers))
        return rows

    assert len(asyncio.run(play())) == 10


def test_a_folder_with_a_percent_sign_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "100%s %(here)s"
    folder.mkdir()

    async def play() -> None:
        async with opened(f"sqlite:///{folder}/ledger.db") as ledger:
            await ledger.reserve([entry()])

    asyncio.run(play())
    assert (folder / "ledger.db").exists()


@pytest.mark.whole
def test_the_installed_package_holds_every_migration(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    # Building leaves folders beside what is built.
    names = ["pyproject.toml", "README.md", "LICENSE", "server", "pipelines/__init__.py"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", ROOT / name, source / name], check=True)  # noqa: S607
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("server/ledger/migrations/")}
    assert packed == {str(path.relative_to(ROOT)) for path in FOLDER.glob("**/*.py")}
