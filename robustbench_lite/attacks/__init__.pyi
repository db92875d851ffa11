from rbl_attacks.boundary import Boundary as Boundary
from rbl_attacks.fgsm import FGSM as FGSM
from rbl_attacks.pgd import PGD as PGD
