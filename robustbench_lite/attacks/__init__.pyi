from rbl_attacks.apgd.attack import APGD as APGD
from rbl_attacks.boundary.attack import Boundary as Boundary
from rbl_attacks.carlini_wagner.attack import CarliniWagner as CarliniWagner
from rbl_attacks.fgsm import FGSM as FGSM
from rbl_attacks.one_pixel.attack import OnePixel as OnePixel
from rbl_attacks.patch.attack import Patch as Patch
from rbl_attacks.pgd import PGD as PGD
from rbl_attacks.zoo.attack import ZOO as ZOO
