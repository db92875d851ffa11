from rbl_defenses.adversarial_training import AdversarialTraining as AdversarialTraining
from rbl_defenses.none import NoDefense as NoDefense
from rbl_defenses.parseval import Parseval as Parseval
