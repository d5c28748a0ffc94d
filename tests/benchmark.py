"""Times bedrock_token beside the least that such work can cost, and beside AWS's own packages.

    python -m tests.benchmark [--runs N] [--js FOLDER] [--markdown] [--svg FILE] [--check]

A ratio compares two figures of this very run, measured in turns, so that a busy machine slows
both. Where aws-bedrock-token-generator (and with it botocore) is missing, its rows are left out.
Those of AWS's JavaScript package need node, and a FOLDER in which somebody has run
`npm install @aws/bedrock-token-generator`.
"""
import argparse
import binascii
import configparser
import hashlib
import hmac
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import timeit
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import NamedTuple, Optional

import bedrock_token

HAVE_AWS = importlib.util.find_spec("aws_bedrock_token_generator") is not None
OURS = "bedrock_token"
AWS = AWS_PYTHON, AWS_JS = "AWS's Python package", "AWS's JS package"

REGION = "us-east-1"
KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
SESSION_TOKEN = (BASE64 * 16)[:1000]
PROFILES = 5000
FEW = 5  # turns of what hardly varies, or takes long

PROGRAMS = {
    "bare": "pass",
    "imports": "import hashlib, hmac, binascii, os, time, datetime",
    "ours": "import bedrock_token; bedrock_token.get_token()",
}
if HAVE_AWS:
    PROGRAMS["aws"] = "import aws_bedrock_token_generator as aws; aws.provide_token()"
NODE_PROGRAMS = {
    "node": "0",
    "js": "require({package}).getTokenProvider()()",
}
BARE = {"js": "node"}  # "bare" for all others

# The compiler of node takes some hundred rounds to do its best.
JS_WARM = """\
const {getToken} = require({package}), env = process.env;
const options = {region: env.AWS_REGION, credentials: {
    accessKeyId: env.AWS_ACCESS_KEY_ID, secretAccessKey: env.AWS_SECRET_ACCESS_KEY,
    sessionToken: env.AWS_SESSION_TOKEN}};
const mint = async (number) => {
    const start = performance.now();
    for (let done = 0; done < number; done++) await getToken(options);
    return (performance.now() - start) / 1e3 / number;
};
mint(2000).then(() => mint(200)).then((seconds) => console.log(seconds));
"""

# Where Linux says what a process holds, each page divided by the number of those that share it.
SMAPS = "/proc/self/smaps_rollup"
PYTHON_SHOWS_PSS = f"print(open('{SMAPS}').read())"
NODE_SHOWS_PSS = f"process.on('exit', () => console.log(fs.readFileSync('{SMAPS}', 'latin1')))"

# Linux counts the memory of the process that starts a child towards the child's peak. So one
# that is smaller than any of those measured does it: it has loaded nothing, not even os.
MEASURE_PEAK = (
    "import posix, sys; "
    "child = posix.posix_spawn(sys.argv[1], sys.argv[1:], posix.environ); "
    "pid, status, usage = posix.wait4(child, 0); "
    "print(usage.ru_maxrss); "
    "sys.exit(status != 0)"
)


class Row(NamedTuple):
    what: str
    measured: float
    beside: str
    other: float
    limit: Optional[float] = None

    def is_over(self):
        # Below nothing is a difference of two figures that a busy machine has spoilt.
        return self.limit is not None and not 0 < self.measured / self.other <= self.limit

    def cells(self):
        limit = verdict = ""
        if self.limit is not None:
            limit = as_ratio(self.limit)
            verdict = "over" if self.is_over() else "ok"
        ratio = as_ratio(self.measured / self.other)
        return (self.what, as_number(self.measured), self.beside, as_number(self.other),
                ratio, limit, verdict)


def rows(what, figures, name, *others):
    """`figures[name]` beside each (name, words, limit) of `others` that was measured."""
    for other, words, limit in others:
        if other in figures:
            yield Row(what, figures[name], words, figures[other], limit)


def as_number(value):
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def as_ratio(value):
    return f"{value:.2f}" if value > 0.5 else f"1/{1 / value:.1f}"


def in_turns(rounds, timers):
    """Calls each timer once a round: {name: its figures}."""
    figures = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            figures[name].append(timer())
    return figures


def seconds(function, number=1):
    """A timer of one call."""
    return lambda: timeit.timeit(function, number=number) / number


def fastest(rounds, timers, scale):
    return {name: min(figures) * scale for name, figures in in_turns(rounds, timers).items()}


def over_bare(statistic, figures, scale):
    """What each program takes more than its interpreter when that does nothing."""
    values = {name: statistic(numbers) * scale for name, numbers in figures.items()}
    return {name: value - values[BARE.get(name, "bare")] for name, value in values.items()}


def javascript(folder):
    """AWS's package in the `node_modules` of `folder`; None if it, or node, is missing."""
    if folder and shutil.which("node"):
        package = Path(folder, "node_modules", "@aws", "bedrock-token-generator").resolve()
        if package.is_dir():
            return package
    return None


def node(package, code):
    return [shutil.which("node"), "-e", code.replace("{package}", json.dumps(str(package)))]


def programs(folder, package, python_end="pass", node_end="0"):
    """Commands of interpreters, Python's without the user's own settings."""
    path = f"import sys; sys.path.insert(0, {str(folder)!r})"
    found = {name: [sys.executable, "-I", "-c", f"{path}; {code}; {python_end}"]
             for name, code in PROGRAMS.items()}
    if package:
        found.update((name, node(package, f"{code}; {node_end}"))
                     for name, code in NODE_PROGRAMS.items())
    return found


def run(command, environ):
    return subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout


def needed(name):
    """The distribution and, as far as they are installed, all that it requires."""
    found, waiting = {}, [name]
    for each in waiting:
        if each not in found:
            try:
                found[each] = metadata.distribution(each)
            except metadata.PackageNotFoundError:
                continue
            waiting += [re.match(r"[\w.-]+", line)[0] for line in found[each].requires or ()
                        if "extra ==" not in line]
    return found.values()


def install_rows(package):
    """Bytecode is left out: Python makes it later, of any file."""
    sizes = {"ours": Path(bedrock_token.__file__).stat().st_size}
    if HAVE_AWS:
        sizes["aws"] = sum(
            file.locate().stat().st_size
            for distribution in needed("aws-bedrock-token-generator")
            for file in distribution.files if "__pycache__" not in file.parts)
    if package:
        sizes["js"] = sum(file.stat().st_size for file in package.parents[1].rglob("*")
                          if file.is_file() and not file.is_symlink())
    yield from rows("to install, MB", {name: size / 1e6 for name, size in sizes.items()}, "ours",
                    ("aws", AWS_PYTHON, None), ("js", AWS_JS, None))


def cold_rows(rounds, folder, package, environ):
    timers = {
        name: seconds(lambda command=command: run(command, environ))
        for name, command in programs(folder, package).items()
    }
    in_turns(1, timers)  # writes the bytecode that all later runs find
    figures = in_turns(rounds, timers)
    for statistic in min, median:
        what = f"import and first token, ms, {statistic.__name__}"
        yield from rows(what, over_bare(statistic, figures, 1e3), "ours",
                        ("imports", "its imports alone", 2.5),
                        ("aws", AWS_PYTHON, 1 / 15),
                        ("js", AWS_JS, None))


def memory_rows(rounds, folder, package, environ):
    if os.name != "posix":
        return

    def peak(command):
        return int(run([sys.executable, "-I", "-S", "-c", MEASURE_PEAK, *command], environ))

    def proportional(command):
        return int(re.search(rb"^Pss: +(\d+) kB$", run(command, environ), re.MULTILINE)[1])

    unit = 2 ** -20 if sys.platform == "darwin" else 2 ** -10
    kinds = [("peak memory, MiB", peak, programs(folder, package))]
    if os.path.exists(SMAPS):
        kinds.append(("proportional memory, MiB", proportional,
                      programs(folder, package, PYTHON_SHOWS_PSS, NODE_SHOWS_PSS)))
    for what, measure, commands in kinds:
        timers = {name: lambda measure=measure, command=command: measure(command)
                  for name, command in commands.items()}
        figures = over_bare(median, in_turns(rounds, timers), unit)
        yield from rows(what, {**figures, "allowed": 3.5}, "ours",
                        ("allowed", "what is allowed", 1),
                        ("imports", "its imports alone", None),
                        ("aws", AWS_PYTHON, None),
                        ("js", AWS_JS, None))


def hashing_alone(token):
    """What has to be hashed and encoded for `token`, from texts that are there already."""
    url = binascii.a2b_base64(token[len("bedrock-api-key-"):])
    request = b"POST\n/\n" + url + b"\nhost:bedrock.amazonaws.com\n\nhost\n" + b"0" * 64
    scope = (b"20260102", REGION.encode(), b"bedrock", b"aws4_request")
    to_sign = b"AWS4-HMAC-SHA256\n20260102T030405Z\n" + b"/".join(scope) + b"\n"

    def hashing():
        key = b"AWS4" + SECRET.encode()
        for part in scope:
            key = hmac.digest(key, part, "sha256")
        digest = hashlib.sha256(request).hexdigest()
        hmac.digest(key, to_sign + digest.encode(), "sha256").hex()
        return binascii.b2a_base64(url, newline=False)

    return hashing


def aws_mint():
    from aws_bedrock_token_generator import BedrockTokenGenerator
    from botocore.credentials import Credentials

    credentials = Credentials(KEY_ID, SECRET, SESSION_TOKEN)
    return lambda: BedrockTokenGenerator().get_token(credentials, REGION)


def warm_rows(rounds, package, environ):
    credentials = bedrock_token.Credentials(KEY_ID, SECRET, SESSION_TOKEN)
    token = bedrock_token.get_token(credentials, REGION)
    functions = {
        "ours": lambda: bedrock_token.get_token(credentials, REGION),
        "hashing": hashing_alone(token),
        "reuse": bedrock_token.TokenProvider(credentials, REGION),
        "decode": lambda: bedrock_token.decode_token(token),
    }
    if HAVE_AWS:
        functions["aws"] = aws_mint()
    timers = {name: seconds(function, 200) for name, function in functions.items()}
    if package:
        timers["js"] = lambda: float(run(node(package, JS_WARM), environ))
    figures = fastest(rounds, timers, 1e6)
    yield from rows("one more token, µs", figures, "ours",
                    ("hashing", "its hashing alone", 2.5),
                    ("aws", AWS_PYTHON, 1 / 2),
                    ("js", AWS_JS, None))
    yield from rows("the provider's, µs", figures, "reuse", ("ours", "one more token", None))
    yield from rows("decode_token, µs", figures, "decode", ("ours", "one more token", None))


def aws_load(profile, config, credentials):
    from botocore.session import Session

    def load():
        session = Session(profile=profile)
        session.set_config_variable("config_file", str(config))
        session.set_config_variable("credentials_file", str(credentials))
        return session.get_credentials()

    return load


def config_rows(rounds, folder):
    config, credentials = folder / "config", folder / "credentials"
    config.write_text("".join(
        f"[profile p{number}]\nregion = {REGION}\noutput = json\n"
        f"aws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n\n"
        for number in range(PROFILES)
    ))
    environ = {
        "HOME": str(folder),
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
    }
    profile = f"p{PROFILES - 1}"
    functions = {
        "ours": lambda: bedrock_token.load_credentials(profile, environ=environ),
        "configparser": lambda: configparser.RawConfigParser().read(config),
    }
    if HAVE_AWS:
        functions["aws"] = aws_load(profile, config, credentials)
    timers = {name: seconds(function) for name, function in functions.items()}
    yield from rows(f"one of {PROFILES:,} profiles, ms", fastest(rounds, timers, 1e3), "ours",
                    ("configparser", "configparser alone", None),
                    ("aws", "botocore's session", 1 / 4))


def first_in(file, pattern, otherwise):
    """What the pattern finds in a file that only Linux has."""
    found = None
    if os.path.exists(file):
        found = re.search(pattern, Path(file).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else otherwise


def circumstances(package):
    """The machine and the versions."""
    yield first_in("/proc/cpuinfo", r"^model name\s*: (.+)$", platform.processor())
    yield f"{os.cpu_count()} cores"
    yield first_in("/etc/os-release", r'^PRETTY_NAME="(.+)"$', platform.platform())
    yield f"{platform.python_implementation()} {platform.python_version()}"
    yield f"bedrock_token {bedrock_token.__version__}"
    if HAVE_AWS:
        aws, botocore = map(metadata.version, ("aws-bedrock-token-generator", "botocore"))
        yield f"aws-bedrock-token-generator {aws} with botocore {botocore}"
    if package:
        version = subprocess.check_output([shutil.which("node"), "--version"])
        yield f"Node.js {version.decode().strip().lstrip('v')}"
        about = json.loads((package / "package.json").read_text(encoding="utf-8"))
        yield f"{about['name']} {about['version']}"


def compared(measured):
    """The figures beside AWS's packages: {what: {whose: figure}}, ours the first."""
    found = {}
    for row in measured:
        if row.beside in AWS:
            found.setdefault(row.what, {OURS: row.measured})[row.beside] = row.other
    return found


def times(figures, whose):
    """The figure, and how many times ours it is."""
    figure = as_number(figures[whose])
    return figure if whose == OURS else f"{figure} ({as_number(figures[whose] / figures[OURS])}×)"


def comparison(measured):
    found = compared(measured)
    columns = list(dict.fromkeys(whose for figures in found.values() for whose in figures))
    yield ("", *columns)
    for what, figures in found.items():
        yield (what, *(times(figures, whose) if whose in figures else "" for whose in columns))


# In a grey and a blue that can be read on white and on black, since a page may have either.
CHART = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {height}" role="img" \
font-family="sans-serif" font-size="13" fill="#787878">
<title>bedrock_token beside AWS's token generators; a shorter bar is better</title>
{parts}
</svg>
"""
CHARTED = {
    "to install, MB": "Installed files, MB",
    "import and first token, ms, min": "Import and first token, ms",
    "one more token, µs": "One more token, µs",
    "peak memory, MiB": "Peak memory, MiB",
}


def chart(measured):
    """The figures as bars, those of each kind on a scale from zero to the longest."""
    parts, y = [], 0
    found = compared(measured)
    for what in filter(found.get, CHARTED):
        y += 24
        parts.append(f'<text y="{y}" font-weight="bold">{CHARTED[what]}</text>')
        for whose, value in found[what].items():
            y += 20
            width = max(1, 300 * value / max(found[what].values()))
            colour = "#1f7fd6" if whose == OURS else "#909090"
            parts += [
                f'<text x="160" y="{y}" text-anchor="end">{whose}</text>',
                f'<rect x="170" y="{y - 11}" width="{width:.1f}" height="13" fill="{colour}"/>',
                f'<text x="{width + 177:.1f}" y="{y}">{times(found[what], whose)}</text>',
            ]
        y += 10
    return CHART.format(height=y, parts="\n".join(parts))


HEADER = ("measured", "", "beside", "", "ratio", "at most", "")


def table(lines):
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()


def markdown(lines):
    header, *lines = lines
    for line in header, ["---"] * len(header), *lines:
        yield f"| {' | '.join(line)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="turns of each timing (%(default)s)")
    parser.add_argument("--js", metavar="FOLDER", help="where AWS's JavaScript package is")
    parser.add_argument("--markdown", action="store_true", help="print what the README shows")
    parser.add_argument("--svg", metavar="FILE", help="draw the chart that the README shows")
    parser.add_argument("--check", action="store_true", help="exit with 1 when over a limit")
    options = parser.parse_args()
    package = javascript(options.js)
    if (options.markdown or options.svg) and not (HAVE_AWS or package):
        parser.error("--markdown and --svg need one of AWS's packages to compare with")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(bedrock_token.__file__, folder)
        environ = {
            "HOME": name,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            "AWS_REGION": REGION,
        }
        if "SYSTEMROOT" in os.environ:  # Windows starts no Python without it
            environ["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
        measured = [
            *install_rows(package),
            *cold_rows(options.runs, folder, package, environ),
            *warm_rows(options.runs, package, environ),
            *memory_rows(FEW, folder, package, environ),
            *config_rows(FEW, folder),
        ]

    print(", ".join(circumstances(package)), end="\n\n")
    if options.markdown:
        others = [row.cells() for row in measured if row.limit or row.beside not in AWS]
        print("\n".join([*markdown(comparison(measured)), "", *markdown([HEADER, *others])]))
    else:
        print("\n".join(table([HEADER, *(row.cells() for row in measured)])))
        print("Time to start and memory are those over an interpreter that runs nothing.")
    if options.svg:
        Path(options.svg).write_text(chart(measured), encoding="utf-8")
    return int(options.check and any(row.is_over() for row in measured))


if __name__ == "__main__":
    sys.exit(main())
