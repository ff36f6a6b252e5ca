"""The Luigi tasks and what they stand on; the only place where webtext, dedup and model meet.

    luigi --module pipelines BuildCorpus

`luigi --module` finds the tasks because importing this package inside a Luigi process imports `pipelines.tasks`.
Workers import it too, and have no use for Luigi: without it nothing is imported here.

    config    luigi.cfg section <-> frozen dataclass
    storage   publishes files
    engine    map(function, items)
    stage     fingerprints, seal, resume, lock, drops
    build     what each stage consists of
    steps     the work: read, call a package, publish
    tasks     Luigi's view of the stages
    own_text  the stages on a user's own text
    training  TrainModel and EvaluateModel
    funnel    every link's one outcome
    report    the HTML reports, the dataset card, the manifest
    console   progress and results for people
    cli       the console script `webtext`
"""

import sys

if "luigi" in sys.modules:
    import pipelines.tasks
    import pipelines.training  # noqa: F401
