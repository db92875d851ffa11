from rbl_defenses.adversarial_training import AdversarialTraining as AdversarialTraining
from rbl_defenses.dual_network import DualNetwork as DualNetwork
from rbl_defenses.feature_squeezing.defense import FeatureSqueezing as FeatureSqueezing
from rbl_defenses.gaussian_noise import GaussianNoise as GaussianNoise
from rbl_defenses.none import NoDefense as NoDefense
from rbl_defenses.parseval import Parseval as Parseval
