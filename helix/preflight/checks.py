"""The checks, in the order in which they are made: what others build on comes first."""

from helix.preflight import (
    clock,
    communication,
    configuration,
    data,
    devices,
    disk,
    memory,
    parity,
    steps,
    versions,
)
from helix.preflight.conduct import Check

CHECKS: tuple[Check, ...] = (
    Check(name="ranks", look=devices.look_at_ranks, judge=devices.judge_ranks, needs_run=False),
    Check(
        name="versions",
        look=versions.look_at_versions,
        judge=versions.judge_versions,
        needs_run=False,
    ),
    Check(name="devices", look=devices.look_at_device, judge=devices.judge_device, needs_run=False),
    Check(
        name="configuration",
        look=configuration.look_at_settings,
        judge=configuration.judge_settings,
        needs_run=False,
    ),
    Check(name="batch", look=configuration.look_at_batch),
    Check(
        name="vocabulary",
        look=configuration.look_at_vocabulary,
        judge=configuration.judge_vocabulary,
    ),
    Check(name="run folder", look=configuration.look_at_run_folder),
    Check(name="device memory", look=memory.look_at_device),
    Check(name="host memory", look=memory.look_at_host, judge=memory.judge_host),
    Check(name="data", look=data.look_at_dataset),
    Check(name="data behind a URL", look=data.look_behind_url),
    Check(name="hashes of the data", look=data.look_at_hashes, is_patient=True),
    Check(name="epochs", look=data.look_at_epochs, judge=data.judge_epochs),
    Check(name="disk", look=disk.look_at_writing, judge=disk.judge_writing),
    Check(name="room on the disk", look=disk.look_at_room),
    Check(name="one shared folder", look=disk.look_at_sharing, judge=disk.judge_sharing),
    Check(name="kernels", look=parity.look_at_kernels, judge=parity.judge_kernels),
    Check(
        name="collectives",
        look=communication.look_at_collectives,
        judge=communication.judge_collectives,
        needs_run=False,
        is_collective=True,
    ),
    Check(
        name="links",
        look=communication.look_at_links,
        judge=communication.judge_links,
        needs_run=False,
        is_collective=True,
    ),
    Check(
        name="host group",
        look=communication.look_at_host_group,
        judge=communication.judge_host_group,
        needs_run=False,
        is_collective=True,
    ),
    Check(
        name="clocks",
        look=clock.look_at_clock,
        judge=clock.judge_clock,
        needs_run=False,
        is_collective=True,
    ),
    Check(name="steps", look=steps.look_at_steps, judge=steps.judge_steps, is_collective=True),
)
