from __future__ import annotations

import numpy as np
import shapely
from PIL import Image

from tfseg.data.cohort import Cohort
from tfseg.report import OUTLINE, SlidePictures, nuclei_pictures, slide_pictures, table, write_report
from tfseg.slides.geojson import PolygonFeature, write_geojson
from tfseg.slides.tiff_writer import write_pyramid


def test_page_holds_everything_and_needs_no_other_file(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    output = tmp_path / "out" / "mask.tiff"
    page = write_report(
        tmp_path / "report.html",
        "Run <1>",
        ["a line & another"],
        {"Dice": table(["slide", "dice"], [["s<1>", 0.91234]])},
        {"Slides": [SlidePictures("s1", "grade 2", {"slide": image, "heatmap": image})], "Nuclei & more": []},
        {"mask": output},
    )
    text = page.read_text(encoding="utf-8")
    assert "Run &lt;1&gt;" in text and "a line &amp; another" in text
    assert "<td>s&lt;1&gt;</td><td>0.912</td>" in text
    assert text.count("data:image/png;base64,") == 2
    assert "<h2>Slides</h2>" in text and "<h2>Nuclei &amp; more</h2>" in text
    assert 'href="out/mask.tiff"' in text


def test_pictures_of_a_slide_have_a_heatmap_where_there_is_one(tmp_path):
    truth = np.zeros((40, 60), np.uint8)
    truth[10:30, 20:50] = 1
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(tmp_path / "s.png")
    Image.fromarray(truth).save(tmp_path / "truth.png")
    (tmp_path / "cohort.csv").write_text("slide,annotation,split,mpp\ns.png,truth.png,test,1.0\n")
    (row,) = Cohort.read(tmp_path / "cohort.csv").rows()
    write_pyramid(tmp_path / "mask.tiff", truth, mpp=1.0, kind="label")
    assert list(slide_pictures(row, tmp_path)) == ["slide", "segmentation", "ground truth"]
    write_pyramid(tmp_path / "heatmap.tiff", truth * 255, mpp=1.0, kind="heatmap")
    pictures = slide_pictures(row, tmp_path)
    assert list(pictures) == ["slide", "heatmap", "segmentation", "ground truth"]
    assert pictures["heatmap"][180, 300, 0] > pictures["heatmap"][180, 300, 2], "red where it is sure"
    assert pictures["segmentation"][180, 300].tolist() == [200, 120, 120]


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


def test_outlines_of_nuclei_lie_where_the_nuclei_do(tmp_path):
    image = np.full((30, 40, 3), 255, np.uint8)
    image[10:20, 5:25] = (60, 60, 160)
    write_geojson(tmp_path / "nuclei.geojson", [PolygonFeature(shapely.box(5, 10, 25, 20), "Nucleus")], mpp=0.5)
    pictures = nuclei_pictures(image, tmp_path)
    assert list(pictures) == ["picture", "nuclei"]
    large, shown = pictures.values()
    assert large.shape == shown.shape == (60, 80, 3)
    rows, columns = np.nonzero(np.all(shown == OUTLINE, axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 40, 10, 50)
    np.testing.assert_array_equal(shown[22:38, 13:47], large[22:38, 13:47], "only the outline is drawn")
