from rbl_attacks.suites.autoattack import AutoAttack as AutoAttack
from rbl_attacks.suites.quick import Quick as Quick
from rbl_attacks.suites.standard import Standard as Standard
