import json
from avatar_bench.__main__ import main
def test_b(train,tmp_path):
    r=train(tmp_path/"x", "lr=1e30","optimizer=sgd","trainer.limit_batches=1","epochs=1","data.limit=60",code=6)
