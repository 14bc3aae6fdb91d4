"""Archives that hold given files."""

import io
import tarfile
import zipfile


def write_zip(file, contents, **options):
    """Write a zip of contents by name; return the file."""
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file


def write_tar(file, contents, mode="w:gz"):
    """Write a tar of contents by name; return the file."""
    with tarfile.open(file, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file
