"""tfseg: from annotated whole-slide images to a measured, deployed segmentation model.

Importing the package loads neither TensorFlow nor OpenSlide; import the part you need, for example
``from tfseg.slides import open_slide`` or ``from tfseg.models import build``.
"""

__version__ = "0.1.0"
