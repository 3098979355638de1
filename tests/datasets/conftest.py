"""Hand-made data in the layouts that the owners publish: five ratings each, small enough to know by heart."""

import os
from pathlib import Path

import pytest

# Two of the ratings share a second, and the file is not in order of time.
U_DATA = "\n".join(
    [
        "1\t20\t5\t880000002",
        "2\t10\t3\t880000000",
        "2\t20\t4\t880000002",
        "1\t10\t1\t880000001",
        "3\t30\t4\t880000009",
    ]
)
U_USER = "1|24|M|technician|85711\n2|53|F|other|T8H1N\n3|33|M|writer|00501"
NO_FLAGS, DRAMA, ANIMATED_COMEDY = [0] * 19, [0] * 19, [0] * 19
DRAMA[8] = ANIMATED_COMEDY[3] = ANIMATED_COMEDY[5] = 1
U_ITEM = "\n".join(
    "|".join([*fields, *map(str, flags)])
    for fields, flags in [
        (["10", "Misérables, Les (1995)", "01-Jan-1996", "", "url"], DRAMA),
        (["20", 'Toy "Story" (1995) ', "22-Nov-1995", "", ""], ANIMATED_COMEDY),
        (["30", "Nameless", "", "", ""], NO_FLAGS),
        (["40", "Never rated", "04-Feb-1971", "", ""], DRAMA),
    ]
)

RATINGS_CSV = "\n".join(
    [
        "userId,movieId,rating,timestamp",
        "7,1,3.5,1000000000",
        "7,2,4.0,1000000000",
        "9,1,5.0,999999999",
        "9,3,0.5,1000000001",
    ]
)
MOVIES_CSV = "\n".join(
    [
        "movieId,title,genres",
        "1,Toy Story (1995),Adventure|Animation",
        '2,"American President, The (1995)",Comedy',
        "3,Hyena Road,(no genres listed)",
    ]
)


@pytest.fixture
def ml100k_folder(tmp_path: Path) -> Path:
    """``<this>/ml-100k/`` as published, with five ratings."""
    folder = tmp_path / "owner" / "ml-100k"
    folder.mkdir(parents=True)
    (folder / "u.data").write_text(U_DATA + "\n", encoding="latin-1")
    (folder / "u.user").write_text(U_USER + "\n", encoding="latin-1")
    (folder / "u.item").write_text(U_ITEM + "\n", encoding="latin-1")
    return folder.parent


@pytest.fixture
def latest_folder(tmp_path: Path) -> Path:
    """``<this>/ml-latest-small/`` as published, with four ratings."""
    folder = tmp_path / "owner" / "ml-latest-small"
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_bytes(RATINGS_CSV.replace("\n", "\r\n").encode())
    (folder / "movies.csv").write_text(MOVIES_CSV + "\n", encoding="utf-8")
    return folder.parent


@pytest.fixture(scope="session")
def real_data_folder() -> Path:
    """The folder with the real data sets, or a skip."""
    folder = os.environ.get("RECSYS_DATA")
    if not folder:
        pytest.skip("RECSYS_DATA is not set: the real MovieLens ratings are not here")
    return Path(folder)
