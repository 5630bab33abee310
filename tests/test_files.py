from __future__ import annotations

import errno

import pytest

from tfseg.files import atomic_path, write_json
from tfseg.types import OutputError


def test_content_appears_whole_under_its_name(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"µ": 1})
    assert (tmp_path / "deep" / "a.json").read_text(encoding="utf-8") == '{\n  "µ": 1\n}\n'
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_disk_full_names_the_target(tmp_path):
    target = tmp_path / "a.bin"
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.bin: No space left") as caught,
        atomic_path(target) as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "same command again" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "file" / "a.txt"):
        pass


def test_an_error_about_another_file_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "elsewhere" / "missing.txt").read_text()
