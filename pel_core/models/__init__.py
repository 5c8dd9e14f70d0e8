"""Networks: the canonical ViT, METHODS and the deltas they attach, surgery, heads, BACKBONES, their weights and text features.

Start with `methods` (data) and `surgery` (what applies them). A method with a delta of its own is one new file,
imported at the end of this one. Data and training are unknown here.
"""

from pel_core.models import clip_adapter as clip_adapter
from pel_core.models import text_heads as text_heads
from pel_core.models import tip_adapter as tip_adapter
