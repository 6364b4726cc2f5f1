import json

from helix.cli import main
from helix.kernels import BACKENDS, WITHOUT_ADAPTER


def test_json_names_for_each_kernel_the_backend_taken_and_why_not_the_others(capsys):
    assert main(["doctor", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["kernels"]) == set(BACKENDS)
    for kernel, rows in found["kernels"].items():
        named = [backend for backend, _, _ in rows]
        assert named == [*BACKENDS[kernel], *WITHOUT_ADAPTER.get(kernel, ())]
        assert any(available for _, available, _ in rows)
        assert all(reason for _, _, reason in rows)


def test_json_tells_versions_and_what_is_missing(capsys):
    assert main(["doctor", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert found["packages"]["deepspeed"]
    assert all(version is None or version for version in found["packages"].values())
    assert found["free_disk_gib"] > 0


def test_tables_print_every_package_and_kernel(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in ("helix", "deepspeed", "safetensors", *BACKENDS):
        assert name in printed


def test_unknown_option_is_refused(capsys):
    assert main(["doctor", "jsno=true"]) == 2
    assert "did you mean json?" in capsys.readouterr().err
