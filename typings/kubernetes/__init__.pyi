from . import client as client
from . import config as config
