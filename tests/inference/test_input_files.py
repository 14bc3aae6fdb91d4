"""Tests of the manifests that `input` of predict names; folders, globs and lists are tested with the command."""

import pandas as pd
import pytest

from avatar_bench.errors import DataError
from avatar_bench.inference.input_files import find_input_files


def test_a_manifest_names_files_relative_to_its_folder_and_other_tables_are_files_themselves(tmp_path):
    for ending in ("csv", "parquet"):
        table = pd.DataFrame({"label": ["real"] * 3, "path": ["a, b.png", "/c/d.png", "s3://bucket/e.png"]})
        file = tmp_path / f"list.{ending}"
        table.to_csv(file, index=False) if ending == "csv" else table.to_parquet(file)
        expected = [str(tmp_path / "a, b.png"), "/c/d.png", "s3://bucket/e.png"]
        assert find_input_files(str(file)) == find_input_files(f"@{file}") == expected
        table.iloc[:0].to_csv(file, index=False) if ending == "csv" else table.iloc[:0].to_parquet(file)
        with pytest.raises(DataError, match="contains no paths"):
            find_input_files(str(file))
        single = table[["path"]].iloc[1:]
        single.to_csv(file, index=False) if ending == "csv" else single.to_parquet(file)
        assert find_input_files(str(file)) == expected[1:]
    for name, content in (("a.csv", b"x,y\n1,2\n"), ("b.csv", b"\xff\xd8\0\0"), ("c.parquet", b"nothing")):
        (tmp_path / name).write_bytes(content)
        assert find_input_files(str(tmp_path / name)) == [str(tmp_path / name)]
