from rbl_attacks.boundary import Boundary as Boundary
from rbl_attacks.carlini_wagner import CarliniWagner as CarliniWagner
from rbl_attacks.fgsm import FGSM as FGSM
from rbl_attacks.one_pixel import OnePixel as OnePixel
from rbl_attacks.patch import Patch as Patch
from rbl_attacks.pgd import PGD as PGD
from rbl_attacks.zoo import ZOO as ZOO
