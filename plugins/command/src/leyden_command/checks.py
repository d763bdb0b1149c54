"""What ``leyden doctor`` looks at: each check finds one sort of trouble, and for each the command that mends it."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from importlib_metadata import PackageNotFoundError, distribution, version

from leyden.plugin_system.discovery import CORE_DISTRIBUTION, names_in, normalized
from leyden.plugin_system.manager import PluginManager, published_by
from leyden.trainer import Trainer
from leyden.trainer.parts import ROLES
from leyden_command import distributions
from leyden_command.clashes import clashing_names
from leyden_command.describe import order_mark


@dataclass(frozen=True)
class Problem:
    """Something that is broken.

    Args:
        what: A sentence without its full stop.
        mend: The command to type.
    """

    what: str
    mend: str


@dataclass(frozen=True)
class Device:
    """One installed accelerator on this machine.

    Args:
        name: Its name, as in ``Trainer(accelerator=...)``.
        count: How many of its devices there are; 0 where it can't be used.
        precisions: The installed precisions that it can compute in; none where there is no device.
        error: What asking it raised, or "".
    """

    name: str
    count: int
    precisions: list[str]
    error: str = ""


def installed_distributions(manager: PluginManager) -> dict[str, str]:
    """Name and version of each installed distribution that is Leyden's own or brings a plugin, sorted."""
    found = {info.distribution: info.version for info in manager.infos if info.distribution}
    for name in (*distributions.WITHOUT_PLUGIN, *distributions.published()):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def devices(manager: PluginManager) -> list[Device]:
    """Every installed accelerator, asked."""
    found = []
    for part in manager.components("accelerator"):
        try:
            accelerator = part.build()
            count = int(accelerator.auto_device_count()) if accelerator.is_available() else 0
            able = [name for name in manager.names("precision") if count and accelerator.supports_precision(name)]
            found.append(Device(part.name, count, able))
        except Exception as error:
            found.append(Device(part.name, 0, [], f"{type(error).__name__}: {error}"))
    return found


def set_aside(manager: PluginManager) -> Iterator[Problem]:
    """Plugins that are not used because they are broken, clash by name, or want another core."""
    for info in manager.infos:
        if info.state == "set aside":
            yield Problem(f"The {info} is {info.reason}", info.mend)


def requirements(manager: PluginManager) -> Iterator[Problem]:
    """What an installed plugin requires and is not there, or in another version."""
    from packaging.requirements import InvalidRequirement, Requirement

    for name, own in installed_distributions(manager).items():
        for text in distribution(name).requires or ():
            try:
                need = Requirement(text)
            except InvalidRequirement as error:
                yield Problem(f"{name} {own} has the requirement {text!r}, which is none: {error}", _upgrade(name))
                continue
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            try:
                there = version(need.name)
            except PackageNotFoundError:
                there = "not installed"
            if there == "not installed" or not need.specifier.contains(there, prereleases=True):
                need.marker = None
                of_core = normalized(need.name) == CORE_DISTRIBUTION
                mend = _upgrade(f"{CORE_DISTRIBUTION} {name}") if of_core else f'pip install "{need}"'
                yield Problem(f"{name} {own} needs {need}, and {need.name} is {there}", mend)


def versions(manager: PluginManager) -> Iterator[Problem]:
    """Distributions of Leyden's own that are not of the core's version, with which they are made and tested."""
    installed = installed_distributions(manager)
    core = installed.get(CORE_DISTRIBUTION)
    for name in (*distributions.WITHOUT_PLUGIN, *distributions.published()):
        if core is not None and installed.get(name, core) != core:
            yield Problem(
                f"{name} is {installed[name]} and {CORE_DISTRIBUTION} is {core}; they are made to be of one version",
                f'pip install --upgrade "{name}=={core}"',
            )


def entry_points(manager: PluginManager) -> Iterator[Problem]:
    """Distributions of Leyden's own that are installed and whose plugin is not found."""
    found = {info.distribution for info in manager.infos}
    for name in distributions.published():
        if name in installed_distributions(manager) and name not in found:
            mend = f"pip install --force-reinstall --no-deps {name}"
            yield Problem(f"{name} is installed, but its metadata has no entry point of a plugin", mend)


def parts(manager: PluginManager) -> Iterator[Problem]:
    """Parts that can't be imported; each is imported for it."""
    for info in manager.active:
        for part in info.components:
            try:
                part.load()
            except Exception as error:
                what = f"The {part.kind} {part.name!r} of the {info} can't be imported: {type(error).__name__}: {error}"
                yield Problem(what, _upgrade(info.distribution))


def clashes(manager: PluginManager) -> Iterator[Problem]:
    """Names that several plugins bring, so that asking for one is an error."""
    by_owners: dict[tuple[str, ...], list[str]] = {}
    handles = {}
    for kind, name, owners in clashing_names(manager):
        key = tuple(dict.fromkeys(str(owner) for owner in owners))
        by_owners.setdefault(key, []).append(f"{kind} {name!r}")
        handles[key] = owners[-1].name
    for key, names in by_owners.items():
        what = f"The {' and the '.join(key)} bring the same {', '.join(names)}"
        yield Problem(what, f"export LEYDEN_PLUGINS_DISABLED={handles[key]}")


def equal_defaults(manager: PluginManager) -> Iterator[Problem]:
    """Plugins between whose defaults only their order decides, since none is marked tryfirst or trylast."""
    for role in ("logger", "strategy"):
        implementations = getattr(manager.hook, f"leyden_default_{role}").get_hookimpls()[::-1]
        first = [i.plugin_name for i in implementations if not order_mark(i)]
        if len(first) > 1:
            what = f"The plugins {', '.join(map(repr, first))} all bring a default {role}; {first[0]!r} is taken"
            yield Problem(what, f"export LEYDEN_PLUGINS_DISABLED={','.join(first[1:])}")


def accelerators(manager: PluginManager) -> Iterator[Problem]:
    """No accelerator at all, none with a device, one that raises, or two of one priority."""
    found = devices(manager)
    for device in found:
        if device.error:
            owner = _owner(manager, "accelerator", device.name)
            yield Problem(f"The accelerator {device.name!r} can't be asked: {device.error}", _upgrade(owner))
    if not any(device.count for device in found):
        tried = f"; {', '.join(d.name for d in found)} found none" if found else ""
        yield Problem(f"No installed accelerator has a device{tried}", _install(manager, "accelerator"))
    available = {device.name for device in found if device.count}
    priorities: dict[float, list[str]] = {}
    for part in manager.components("accelerator"):
        if part.name in available:
            priorities.setdefault(part.options.get("priority", 1), []).append(part.name)
    highest = priorities[max(priorities)] if priorities else []
    if len(set(highest)) > 1:
        owner = _owner(manager, "accelerator", highest[-1])
        what = f"accelerator='auto' could be any of {', '.join(highest)}, which have one priority"
        yield Problem(what, f"export LEYDEN_PLUGINS_DISABLED={owner}")


def roles(manager: PluginManager) -> Iterator[Problem]:
    """What a Trainer has by default, and no plugin brings: asked of a Trainer, which is made for it."""
    found = devices(manager)
    name = next((device.name for device in found if device.count), None)
    if name is None:
        return
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer = Trainer(accelerator=name, devices=1, strategy="single_device", default_root_dir=folder)
        except Exception as error:
            what = f"A Trainer with nothing but defaults can't be made: {type(error).__name__}: {error}"
            yield Problem(what, "python -c 'import leyden; leyden.Trainer()'")
            return
    missing = [role for role in ROLES if trainer.wants(role)]
    missing += [] if trainer.loggers else ["logger"]
    several = any(device.count > 1 for device in found)
    missing += ["strategy"] if several and not manager.hook.leyden_default_strategy.get_hookimpls() else []
    for role in missing:
        what = "strategy for several devices" if role == "strategy" else role.replace("_", " ")
        yield Problem(f"No plugin brings a default {what}", _install(manager, role))


def root_directory(manager: PluginManager) -> Iterator[Problem]:
    """A working directory in which no logs and checkpoints can be written."""
    try:
        with tempfile.TemporaryFile(dir="."):
            return
    except OSError as error:
        what = f"The working directory {Path.cwd()}, the default_root_dir, can't be written to: {error.strerror}"
        yield Problem(what, 'cd "$HOME"')


def threads(manager: PluginManager) -> Iterator[Problem]:
    """More threads than the processors that this process may use, which then wait for one another."""
    allowed, text = usable_processors(), os.environ.get("OMP_NUM_THREADS", "")
    mend = f"export OMP_NUM_THREADS={allowed}"
    if text and not all(part.strip().isdigit() and int(part) > 0 for part in text.split(",")):
        yield Problem(f"OMP_NUM_THREADS={text!r} is no number of threads, and is ignored", mend)
    elif torch.get_num_threads() > allowed:
        what = f"PyTorch uses {torch.get_num_threads()} threads, and this process has {allowed} processors"
        yield Problem(what, mend)


def usable_processors() -> int:
    """The processors that the operating system and the container, if any, let this process use; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, round(int(quota) / int(period))))


def variables(manager: PluginManager) -> Iterator[Problem]:
    """Names in Leyden's environment variables that nothing answers to."""
    known = {name for info in manager.infos for name in (info.name, info.distribution)}
    for name in names_in("LEYDEN_PLUGINS_DISABLED"):
        if name not in known:
            what = f"LEYDEN_PLUGINS_DISABLED names {name!r}, and no plugin has that name"
            left = ",".join(other for other in names_in("LEYDEN_PLUGINS_DISABLED") if other in known)
            yield Problem(what, f"export LEYDEN_PLUGINS_DISABLED={left}")
    if (autoload := os.environ.get("LEYDEN_PLUGINS_AUTOLOAD", "1")) not in ("0", "1"):
        yield Problem(f"LEYDEN_PLUGINS_AUTOLOAD={autoload!r} is neither 0 nor 1, and taken for 1", _unset("AUTOLOAD"))


CHECKS: tuple[Callable[[PluginManager], Iterator[Problem]], ...] = (
    set_aside,
    requirements,
    versions,
    entry_points,
    parts,
    clashes,
    equal_defaults,
    accelerators,
    roles,
    root_directory,
    threads,
    variables,
)


def problems(manager: PluginManager) -> list[Problem]:
    """Everything that any check finds, each thing once."""
    found: dict[Any, Problem] = {problem: problem for check in CHECKS for problem in check(manager)}
    return list(found)


def _upgrade(distributions: str) -> str:
    return f"pip install --upgrade {distributions}"


def _install(manager: PluginManager, role: str) -> str:
    """What brings a plugin that fills a role: its installation, or an end to the variable that leaves it out."""
    distribution = published_by("role", role)[0]
    disabled = next((r for r in manager.infos if (r.distribution, r.state) == (distribution, "disabled")), None)
    if disabled is None:
        return f"pip install {distribution}"
    named = names_in("LEYDEN_PLUGINS_DISABLED")
    left = [name for name in named if name not in (disabled.name, distribution)]
    return f"export LEYDEN_PLUGINS_DISABLED={','.join(left)}" if left != named else _unset("AUTOLOAD")


def _unset(name: str) -> str:
    return f"unset LEYDEN_PLUGINS_{name}"


def _owner(manager: PluginManager, kind: str, name: str) -> str:
    """The distribution of the plugin that brings a part, or the plugin's name."""
    for info in manager.infos:
        if any(part.kind == kind and part.name == name for part in info.components):
            return info.distribution or info.name
    raise LookupError(name)
