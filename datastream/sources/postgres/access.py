"""Calls of the server: on a session of the pool, with the catalogue that all threads share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import TypeVar

import psycopg

from datastream.errors import InvalidKey, InvalidValue
from datastream.sources.postgres.catalogue import Catalogue
from datastream.sources.postgres.changes import look_up
from datastream.sources.postgres.connection import Connection, Session
from datastream.sources.postgres.errors import Altered, ConnectionLost, passing
from datastream.sources.postgres.flight import SingleFlight
from datastream.sources.postgres.pool import PATIENCE, Pool, Use

ATTEMPTS = 3
"""How often a call is made whose connection was lost, or whose table was altered."""
_CERTAIN = (
    # There is no such table, log or column any more, or a prepared statement finds other types.
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
    # A pooler sent it to a session that has not prepared it.
    psycopg.errors.InvalidSqlStatementName,
    # Somebody makes the log anew, and was waited for in a circle.
    psycopg.errors.DeadlockDetected,
)
"""Errors that always call for another look at the catalogue, on a new connection."""
T = TypeVar("T")
Action = Callable[[Connection, Catalogue], T]
OnSession = Callable[[Session, Catalogue], T]


class Access:
    """Runs actions with the current catalogue, and looks that up again when it is outdated.

    Args:
        look_up: makes a catalogue; its second argument is whether to make a missing log.
        publish: called with each new catalogue before it is used. It may refuse it.
        lend: a session for each action.
    """

    def __init__(
        self,
        pool: Pool,
        look_up: Callable[[Session, bool], Catalogue],
        publish: Callable[[Catalogue], None],
        lend: Callable[[Use], AbstractContextManager[Session]],
    ) -> None:
        self._pool = pool
        self._lend = lend
        self._look_up = look_up
        self._publish = publish
        self._looking_up: SingleFlight[Catalogue] = SingleFlight()
        self.catalogue: Catalogue | None = None
        """None before the first look-up."""

    @property
    def known(self) -> Catalogue:
        """The current catalogue."""
        if self.catalogue is None:
            raise AssertionError("the constructor of the source looks it up")
        return self.catalogue

    def renew(self, outdated: Catalogue | None, *, install: bool = False) -> Catalogue:
        """A newer catalogue than `outdated`: one that another thread made, or one looked up."""

        def newer() -> Catalogue:
            if self.catalogue is not None and self.catalogue is not outdated:
                return self.catalogue
            # Their statements are prepared for the table as it was.
            self._pool.clear()
            found = self._looked_up(install)
            self._publish(found)
            self.catalogue = found
            return found

        return self._looking_up.run(newer, PATIENCE)

    def _looked_up(self, install: bool) -> Catalogue:
        for _ in range(ATTEMPTS - 1):
            # It may be altered between two of the questions that are asked.
            with suppress(Altered), self._pool.lend(Use.LOOK_UP) as session:
                return self._look_up(session, install)
        with self._pool.lend(Use.LOOK_UP) as session:
            return self._look_up(session, install)

    def install_if_due(self) -> None:
        """Make the log that could not be made when the table was looked up."""
        catalogue = self.known
        if catalogue.is_install_due:
            with passing():
                self.renew(catalogue, install=True)

    def call(self, use: Use, action: Action[T]) -> T:
        """Run `action`; again if its connection was lost or the catalogue is outdated."""
        with passing():
            return self._repeated(partial(self._attempt, use, action))

    def keep(self, use: Use, action: OnSession[T], stack: ExitStack) -> T:
        """`call`, on a session that stays lent until `stack` is closed."""
        with passing():
            return self._repeated(partial(self._attempt_kept, use, action, stack))

    def _repeated(self, attempt: Callable[[Catalogue], T]) -> T:
        for _ in range(ATTEMPTS - 1):
            catalogue = self.known
            try:
                return attempt(catalogue)
            except ConnectionLost:
                pass
            except Altered:
                self.renew(catalogue)
        try:
            return attempt(self.known)
        except (ConnectionLost, Altered) as error:
            raise error.__cause__ or error from None

    def _attempt(self, use: Use, action: Action[T], catalogue: Catalogue) -> T:
        with self._lend(use) as session, _checked(session, catalogue):
            return action(session.db, catalogue)

    def _attempt_kept(
        self, use: Use, action: OnSession[T], stack: ExitStack, catalogue: Catalogue
    ) -> T:
        with ExitStack() as lent:
            session = lent.enter_context(self._lend(use))
            with _checked(session, catalogue):
                found = action(session, catalogue)
            stack.enter_context(lent.pop_all())
            return found


@contextmanager
def _checked(session: Session, catalogue: Catalogue) -> Iterator[None]:
    """Around an action: whether it fails because of what both were taken for.

    Raises:
        ConnectionLost, Altered: it does.
    """
    if session.started != catalogue.started:
        raise Altered
    try:
        yield
    except (psycopg.Error, InvalidKey, InvalidValue) as error:
        if session.is_lost or _only_reads_still(error, session):
            raise ConnectionLost from error
        if _is_outdated(error, session.db, catalogue):
            raise Altered from error
        raise


def _only_reads_still(error: Exception, session: Session) -> bool:
    """Whether a write may be done on a session that begins now: role and database may have been
    set to only read until a moment ago. Closes the one of before."""
    only_reads = isinstance(error, psycopg.errors.ReadOnlySqlTransaction)
    if not only_reads or session.is_new:
        return False
    session.close()
    return True


def _is_outdated(error: Exception, db: Connection, catalogue: Catalogue) -> bool:
    """Whether the call failed because the table is not what it was."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        # Of the table, or of its log only, without which the table can be read all the same.
        return catalogue.log.installed is not None and not look_up(db, catalogue.layout).installed
    if isinstance(error, _CERTAIN):
        return True
    return not isinstance(error, psycopg.OperationalError) and not catalogue.is_current(db)
