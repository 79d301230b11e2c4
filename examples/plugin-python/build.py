"""Packs the plugin's modules and the protocol's stubs into one executable file.

The file is a zip archive behind a first line that names this interpreter. From the same
sources it comes out the same, byte for byte, so that its digest can be pinned.
"""

import io
import pathlib
import sys
import tempfile
import zipfile

import grpc_tools
from grpc_tools import protoc

_PROTOS = ("tagstore/error/v1/error.proto", "tagstore/backend/v1/backend_service.proto")
_HERE = pathlib.Path(__file__).parent
_MAIN = b"import sys\n\nfrom plugin import process\n\nsys.exit(process.main())\n"


def stubs(proto, into):
    """Makes the stubs of the protocol's files, and the packages around them."""
    common = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    code = protoc.main(["protoc", f"-I{proto}", f"-I{common}", f"--python_out={into}", f"--grpc_python_out={into}", *_PROTOS])
    if code:
        sys.exit(f"the protocol's stubs could not be made from {proto}")
    # A package without this file is not found in an archive.
    for folder in [p for p in pathlib.Path(into).rglob("*") if p.is_dir()]:
        (folder / "__init__.py").touch()


def files(generated):
    """Every file of the archive: its name in there, and its bytes."""
    yield "__main__.py", _MAIN
    for folder, root in ((_HERE / "plugin", _HERE), (generated, generated)):
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(root).as_posix(), path.read_bytes()


def main(proto, target):
    """Writes the executable file."""
    # -I: no variable and no folder of the user's adds modules. -B: no caches are written.
    first = f"#!{sys.executable} -IB\n".encode()
    if len(first) > 255:
        sys.exit("the path of this folder is too long for the first line of a script (execve(2))")
    archive = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive, "w") as z:
        stubs(proto, folder)
        for name, content in files(pathlib.Path(folder)):
            z.writestr(zipfile.ZipInfo(name), content)  # its date is always the same
    path = pathlib.Path(target)
    path.write_bytes(first + archive.getvalue())
    path.chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])
