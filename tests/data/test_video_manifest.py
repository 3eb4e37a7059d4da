"""The rows that stages keep."""

from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.manifest import Manifest
from causalcine_jax.data.video.work import Work


def test_a_damaged_line_costs_that_row_alone(tmp_path, capsys):
    file = tmp_path / "out" / "work" / "captions.jsonl"
    manifest = Manifest(file, sync=True)
    for number in range(9):
        manifest.add({"id": str(number)})
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * (len(lines[3]) - 1) + b"\n"
    file.write_bytes(b"".join(lines) + b'{"id": "torn')
    work = Work(PrepareConfig(tmp_path / "v", tmp_path / "out", tmp_path), progress=False)
    read = work.manifest("captions")
    assert [n for n in range(9) if read.get(str(n)) is None] == [3]
    assert "captions.jsonl has 1 damaged line: made again" in capsys.readouterr().err
    assert file.read_bytes() == b"".join(lines)
    read.add({"id": "3"})
    assert all(Manifest(file).get(str(number)) for number in range(9))
