from __future__ import annotations

import numpy as np

from tfseg.report import SlidePictures, table, write_report


def test_page_holds_everything_and_needs_no_other_file(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    output = tmp_path / "out" / "mask.tiff"
    page = write_report(
        tmp_path / "report.html",
        "Run <1>",
        ["a line & another"],
        {"Dice": table(["slide", "dice"], [["s<1>", 0.91234]])},
        [SlidePictures("s1", "grade 2", {"slide": image, "heatmap": image})],
        {"mask": output},
    )
    text = page.read_text(encoding="utf-8")
    assert "Run &lt;1&gt;" in text and "a line &amp; another" in text
    assert "<td>s&lt;1&gt;</td><td>0.912</td>" in text
    assert text.count("data:image/png;base64,") == 2
    assert 'href="out/mask.tiff"' in text


def test_picture_colours_survive():
    import base64
    import re

    import cv2

    from tfseg.report import picture

    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 200
    data = re.search(r"base64,([^\"]+)", picture(image, "red")).group(1)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], image)
