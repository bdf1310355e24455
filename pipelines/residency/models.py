"""The models of one worker: where each is, which can be worked with now, and what is done so that others come.

Knows specs, the plan and the carrier; knows no jobs, only what models they wait for and work with.
Invariant: one thread calls all of this; what is done beside it comes back as reports, which `update` takes in. A model
is handed out only while all of it is on the device and nothing of it moves.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from math import inf

from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.registry import BUILDERS
from pipelines.figures import ModelFigures
from pipelines.messages import ModelReport, ModelSpec, ModelState, Serve
from pipelines.residency.carrier import Carrier, Moved, Origin
from pipelines.residency.entry import Entry, LookedAt, look_at
from pipelines.residency.holding import Budgets, Component, Holding, Outlook, Plan, Rules, Tier, Wanted, Why, bytes_of
from pipelines.residency.plan import plan, unloading
from pipelines.residency.traffic import Traffic
from pipelines.weights.digest import FileDigests
from pipelines.weights.files import CheckpointProblem

# How long a plan that depends on time alone may be late.
LOOK_SECONDS = 1.0
HOPELESS = (Why.NEVER_FITS, Why.PINNED)


@dataclass(frozen=True, slots=True)
class _Carried:
    """A report: all moves of a plan are done, or one of them has failed. family: of the model that came, in so many
    seconds."""

    plan: Plan
    family: Family | None = None
    problem: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Aside:
    """Where work is done beside the step loop, so that models on the device go on serving. surveyors read files,
    carriers move weights, one thread each. wake: called when a report is there."""

    surveyors: Executor
    carriers: Executor
    wake: Callable[[], None] = field(default=lambda: None)


class Models:
    """budgets, rules: what may be held. aside: who does what takes long."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        carrier: Carrier,
        budgets: Budgets,
        rules: Rules,
        aside: Aside,
        options: FamilyOptions | None = None,
    ) -> None:
        self._carrier, self._budgets, self._rules, self._aside = carrier, budgets, rules, aside
        self._options = options or FamilyOptions()
        self._entries = {spec.id: Entry(spec) for spec in specs}
        self._digests = FileDigests()
        self._measured: dict[str, Component] = {}
        self._places: dict[str, Tier] = {}
        self._moving: Plan | None = None
        self._closed: frozenset[str] = frozenset()
        self._reports: queue.SimpleQueue[LookedAt | Moved | _Carried] = queue.SimpleQueue()
        self._looked_seconds = -inf
        self._traffic = Traffic()
        for entry in self._entries.values():
            entry.look_at_headers()

    # What others may know.

    def family(self, model: str) -> Family | None:
        """The model, if new work may begin with it now."""
        return None if model in self._closed else self._entries[model].family

    def problem(self, model: str) -> str | None:
        """Why the model cannot be served, and will not until something else changes."""
        entry = self._entries.get(model)
        if entry is None:
            return f"no model {model} is known here"
        if entry.refusal in HOPELESS:
            return entry.refusal.value
        return entry.problem

    def digest(self, model: str) -> str:
        """Of the weights that the model was loaded from."""
        surveyed = self._entries[model].surveyed
        if surveyed is None:
            raise CheckpointProblem(f"{model} was never looked at")
        return surveyed.digest

    def reports(self) -> tuple[ModelReport, ...]:
        return tuple(self._report(model) for model in self._entries)

    def figures(self) -> tuple[ModelFigures, ...]:
        """What was counted so far of each model."""
        families = {model: entry.family for model, entry in self._entries.items()}
        return self._traffic.figures(families)

    def _report(self, model: str) -> ModelReport:
        entry = self._entries[model]
        held = entry.components(self._measured)
        on_device = [one for one in held if self._places.get(one.digest) is Tier.DEVICE]
        seconds = sum(one.seconds_from(self._places.get(one.digest, Tier.DISK)) for one in held)
        return ModelReport(
            model,
            self.problem(model),
            self._state(entry),
            bytes_of(on_device),
            model in self._rules.pinned,
            None if entry.surveyed is None else seconds,
        )

    def _state(self, entry: Entry) -> ModelState:
        if entry.problem is not None:
            return "absent" if entry.is_absent else "failed"
        is_coming = self._moving is not None and self._moving.coming == entry.spec.id
        if is_coming or entry.is_being_surveyed:
            return "loading"
        if entry.family is not None:
            return "device"
        tier = self._holding(entry, ()).tier(self._places)
        return "host" if entry.surveyed is not None and tier > Tier.DISK else "disk"

    # What the operator asks for.

    def serve(self, command: Serve, now_seconds: float) -> None:
        """Other models from now on; those that stay keep their places, and what was asked for them meanwhile."""
        served, leaving = {spec.id for spec in command.models}, {spec.id for spec in command.leaving}
        for spec in command.leaving:
            self._entries.get(spec.id) or self._new(spec)
        for entry in self._entries.values():
            if entry.spec.id not in served:
                entry.is_leaving, entry.is_forgotten = True, entry.spec.id not in leaving
                entry.asked_seconds = None
        groups = tuple(map(frozenset, command.never_together))
        self._rules = Rules(self._rules.pinned & served, self._rules.keep_loaded & served, groups)
        for spec in command.models:
            self._know(spec, now_seconds)
        self._looked_seconds = -inf

    def _know(self, spec: ModelSpec, now_seconds: float) -> None:
        """A model that is served. What its entry says of its loading counts where it is new, or said otherwise before:
        else what was asked for meanwhile."""
        entry = self._entries.get(spec.id)
        is_as_before = entry is not None and not entry.is_leaving and entry.spec.loading == spec.loading
        entry = entry or self._new(spec)
        entry.spec, entry.is_leaving = spec, False
        if is_as_before:
            return
        entry.is_to_go = False
        own = frozenset([spec.id])
        self._rules = replace(
            self._rules,
            pinned=self._rules.pinned | own if spec.loading == "pin" else self._rules.pinned - own,
            keep_loaded=self._rules.keep_loaded | own if spec.loading == "keep" else self._rules.keep_loaded - own,
        )
        if spec.loading == "at_start":
            self.load(spec.id, now_seconds)

    def _new(self, spec: ModelSpec) -> Entry:
        entry = self._entries[spec.id] = Entry(spec)
        entry.look_at_headers()
        return entry

    def load(self, model: str, now_seconds: float) -> None:
        """Bring the model to the device when there is room; look at it anew if it had failed."""
        entry = self._entries[model]
        if entry.problem is None:
            entry.is_to_go = False
        else:  # what is left of it goes first
            entry.look_at_headers()
        entry.asked_seconds, entry.refusal = now_seconds, None
        self._looked_seconds = -inf

    def unload(self, model: str) -> None:
        """Let the model go, once no job works with it. Jobs that come later bring it back."""
        self._entries[model].is_to_go = True
        self._entries[model].asked_seconds = None
        self._rules = replace(self._rules, keep_loaded=self._rules.keep_loaded - {model})
        self._looked_seconds = -inf

    def pin(self, model: str, is_pinned: bool) -> None:
        """Keep the model on the device whatever comes, or no longer."""
        pinned = self._rules.pinned | {model} if is_pinned else self._rules.pinned - {model}
        self._rules = replace(self._rules, pinned=pinned)
        self._looked_seconds = -inf

    # What happens.

    def used(self, model: str, now_seconds: float) -> None:
        """A job begins to work with it."""
        self._entries[model].used_seconds = now_seconds

    def has_news(self, now_seconds: float) -> bool:
        """Whether `update` would find something that the jobs did not bring."""
        return not self._reports.empty() or now_seconds - self._looked_seconds >= LOOK_SECONDS

    def update(self, now_seconds: float, wanted: Sequence[Wanted], leased: Collection[str]) -> frozenset[str]:
        """Take in what was reported, decide, and have it begun. The models whose coming begins now.

        wanted: what jobs wait for, also models that are there. leased: what jobs work with.
        """
        self._looked_seconds = now_seconds
        while not self._reports.empty():
            self._take(self._reports.get(), now_seconds)
        wanted = [want for want in self._with_asked(wanted) if self._is_servable(want.model)]
        self._see_off({want.model for want in wanted} | set(leased))
        beginning = self._survey_missing(wanted)
        outlook = self._outlook(now_seconds, wanted, leased)
        if self._let_go(outlook):
            return beginning
        return beginning | (self._complete(outlook) or self._decide(outlook))

    def _is_servable(self, model: str) -> bool:
        return model in self._entries and self._entries[model].problem is None

    def _see_off(self, busy: Collection[str]) -> None:
        """Let those go that are leaving and that no job has; forget those of which nothing is held."""
        for model, entry in tuple(self._entries.items()):
            if not entry.is_leaving:
                continue
            is_free = model not in busy and not entry.is_being_surveyed and not self._is_moving(model)
            entry.is_to_go = is_free and entry.surveyed is not None
            if is_free and entry.surveyed is None and entry.is_forgotten:
                del self._entries[model]

    def _with_asked(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """What the operator asked for counts as one job that waits."""
        waiting = {want.model for want in wanted}
        asked = [
            Wanted(model, entry.asked_seconds)
            for model, entry in self._entries.items()
            if entry.asked_seconds is not None and model not in waiting
        ]
        return [*wanted, *asked]

    def _survey_missing(self, wanted: Sequence[Wanted]) -> frozenset[str]:
        names = {want.model for want in wanted} | self._rules.pinned | self._rules.keep_loaded
        missing = {name for name in names if self._is_unknown(self._entries[name])}
        for name in missing:
            self._entries[name].is_being_surveyed = True
            self._aside.surveyors.submit(self._survey, self._entries[name].spec)
        return frozenset(missing)

    def _is_unknown(self, entry: Entry) -> bool:
        return entry.surveyed is None and entry.problem is None and not entry.is_being_surveyed

    def _survey(self, spec: ModelSpec) -> None:
        """Runs in a surveyor's thread."""
        device, budget_bytes = self._carrier.device, self._budgets.device_bytes
        self._tell(look_at(spec, self._options, device, budget_bytes, self._digests))

    def _outlook(self, now_seconds: float, wanted: Sequence[Wanted], leased: Collection[str]) -> Outlook:
        known = [entry for entry in self._entries.values() if entry.surveyed is not None]
        names = {entry.spec.id for entry in known if entry.problem is None}
        rules = Rules(self._rules.pinned & names, self._rules.keep_loaded & names, self._rules.never_together)
        return Outlook(
            now_seconds,
            self._budgets,
            tuple(self._holding(entry, leased) for entry in known),
            self._places,
            tuple(want for want in wanted if want.model in names),
            rules,
            self._touched(),
        )

    def _holding(self, entry: Entry, leased: Collection[str]) -> Holding:
        components = entry.components(self._measured)
        model = entry.spec.id
        return Holding(model, components, model in leased, entry.loaded_seconds, entry.used_seconds)

    def _touched(self) -> frozenset[str]:
        if self._moving is None:
            return frozenset()
        return frozenset(move.model for move in self._moving.moves) | self._moving.leaving

    def _is_moving(self, model: str) -> bool:
        return self._moving is not None and (model == self._moving.coming or model in self._touched())

    def _let_go(self, outlook: Outlook) -> bool:
        """See to the models that are to go; whether that is enough for now. One that is gone is looked at anew before
        it comes again, as its files may be others then."""
        for holding in outlook.models:
            entry = self._entries[holding.id]
            if not entry.is_to_go or holding.is_leased or outlook.moving:
                continue
            found = unloading(holding, outlook)
            if found.moves:
                leaving = frozenset() if entry.family is None else frozenset([holding.id])
                self._begin(replace(found, leaving=leaving))
            else:
                entry.is_to_go, entry.family, entry.surveyed = False, None, None
                self._looked_seconds = -inf
            return True
        return False

    def _complete(self, outlook: Outlook) -> frozenset[str]:
        """Build a model that is wanted and of which all happens to be there, as others brought it."""
        sought = {want.model for want in outlook.wanted} | outlook.rules.pinned | outlook.rules.keep_loaded
        for model in sorted(sought & outlook.residents(outlook.places)):
            if self._moving is None and self._entries[model].family is None:
                self._begin(Plan(coming=model))
                return frozenset([model])
        return frozenset()

    def _decide(self, outlook: Outlook) -> frozenset[str]:
        decided = plan(outlook)
        for entry in self._entries.values():
            entry.refusal = decided.refusals.get(entry.spec.id)
            if entry.refusal in HOPELESS:
                entry.asked_seconds = None
        to_go = frozenset(model for model, entry in self._entries.items() if entry.is_to_go)
        self._closed = decided.draining | to_go
        if not decided.moves:
            return frozenset()
        self._begin(decided)
        return frozenset([decided.coming] if decided.coming else [])

    def _begin(self, decided: Plan) -> None:
        self._moving = decided
        for model in decided.leaving | self._touched():
            self._entries[model].family = None
        origins = {
            component.digest: Origin(entry.surveyed.opened, name, entry.surveyed.treatment.of(name))
            for entry in self._entries.values()
            if entry.surveyed is not None
            for name, component in entry.surveyed.components.items()
        }
        self._aside.carriers.submit(self._carry, decided, origins)

    def _carry(self, decided: Plan, origins: Mapping[str, Origin]) -> None:
        """Runs in the carrier's thread."""
        began_seconds = self._carrier.now()
        try:
            is_done = self._carrier.carry(decided.moves, origins, self._reports.put)
            family = self._built(decided.coming) if is_done and decided.coming else None
            self._tell(_Carried(decided, family, seconds=self._carrier.now() - began_seconds))
        except Exception as error:
            problem = str(error) if isinstance(error, CheckpointProblem) else f"{type(error).__name__}: {error}"
            self._tell(_Carried(decided, problem=problem))

    def _built(self, model: str) -> Family:
        """The model, of components that are all on the device."""
        entry = self._entries[model]
        if entry.surveyed is None:
            raise CheckpointProblem(f"{model} was never looked at")
        modules = {name: self._carrier.modules[one.digest] for name, one in entry.surveyed.components.items()}
        build, use = BUILDERS[entry.spec.family], self._traffic.prompts_of(model)
        options = replace(self._options.for_model(entry.spec), prompt_use=use)
        return build(entry.surveyed.opened, modules, self._carrier.device, entry.surveyed.treatment.dtype, options)

    def _tell(self, report: LookedAt | _Carried) -> None:
        self._reports.put(report)
        self._aside.wake()

    def _take(self, report: LookedAt | Moved | _Carried, now_seconds: float) -> None:
        match report:
            case LookedAt(model=model):
                entry = self._entries[model]
                entry.is_being_surveyed = False
                entry.surveyed, entry.problem = report.found, report.problem
            case Moved():
                self._take_move(report)
            case _Carried():
                self._take_end(report, now_seconds)

    def _take_move(self, report: Moved) -> None:
        for one in report.measured:
            self._places[one.digest] = report.move.target
            self._measured[one.digest] = self._remeasured(one.digest, one.size_bytes, one.seconds, report)
        for digest in report.gone:
            self._places.pop(digest, None)
        self._places = {digest: tier for digest, tier in self._places.items() if tier is not Tier.DISK}
        if report.problem is not None:
            self._give_up(self._entries[report.move.model], report.problem)

    def _remeasured(self, digest: str, size_bytes: int, seconds: float, report: Moved) -> Component:
        known = replace(self._measured.get(digest, Component(digest, 0)), size_bytes=size_bytes, is_estimate=False)
        if report.move.target is not Tier.DEVICE:
            return known
        is_load = report.move.source is Tier.DISK
        return replace(known, load_seconds=seconds) if is_load else replace(known, promote_seconds=seconds)

    def _take_end(self, report: _Carried, now_seconds: float) -> None:
        self._moving = None
        self._traffic.left(report.plan.leaving)
        if report.plan.coming is None:
            return
        entry = self._entries[report.plan.coming]
        entry.asked_seconds = None
        if report.problem is not None:
            self._give_up(entry, report.problem)
        if report.family is not None:
            entry.family, entry.loaded_seconds = report.family, now_seconds
            self._traffic.came(entry.spec.id, report.seconds)

    def _give_up(self, entry: Entry, problem: str) -> None:
        """A model that failed is not kept half."""
        entry.problem, entry.is_to_go = problem, True
