#include "command/help.h"

const char RUN_HELP[] =
    "Runs all populations of a configuration. The result is a folder: --out, or results/NAME-HASH.\n"
    "Populations that do not fit into memory at once run in batches; --resume also runs those that\n"
    "the result lacks.\n\n"
    "  cohort run configs/quickstart.yaml --set train.rounds=5 --out results/try\n";
const char CHECK_HELP[] =
    "Reports every problem of a configuration, or prints its populations, parameters, traffic and\n"
    "memory plan, and times a few steps, for some seconds, to say how long a run takes. Writes nothing.\n\n"
    "  cohort check configs/quickstart.yaml\n";
const char PRETRAIN_HELP[] =
    "Pre-trains the base and keeps it in the cache ($COHORT_CACHE, else ~/.cache/cohort); run does\n"
    "this by itself. With --out a copy is written as a Hugging Face folder.\n\n"
    "  cohort pretrain configs/multilingual.yaml --out bases/english\n";
const char DATA_HELP[] =
    "Makes train_<i>.bin, valid_<i>.bin and test_<i>.bin from text files or folders, one source for\n"
    "each NAME=PATH. Bytes are tokens; whole files go to one split. Links are followed; what is no text\n"
    "(shards, compressed files) is refused, and files that are left out (empty, hidden, copies of\n"
    "others) are counted.\n\n"
    "Prompts and responses: PATH is a file of JSON Lines (.jsonl), which is divided, or a folder with\n"
    "train.jsonl, valid.jsonl and test.jsonl. A line is {\"prompt\": .., \"response\": .., \"task\": ..}:\n"
    "text, or lists of token ids; task is a name or a list of names, for --by-task. Examples of one\n"
    "prompt go to one split.\n\n"
    "  cohort data --out data/languages german=text/de french=text/fr\n"
    "  cohort data --out data/tasks --by-task phone=examples.jsonl\n";
const char INFO_HELP[] =
    "Prints the provenance, populations and last losses of a result folder; also of a run that is\n"
    "still going.\n\n"
    "  cohort info results/quickstart-1a2b3c4d\n";
const char EXPORT_HELP[] =
    "Tables have an observation a line and share the columns population, seed, device and round.\n"
    "Losses are nats per token, gates and token shares are fractions (tokens: of their first choice),\n"
    "traffic is bytes of the round. What was not measured has no line. metrics has all that belongs to\n"
    "a device or a population, a line a value, fairness too. Works on a run that is still going. The\n"
    "table windows (of a run with trace.sampling_windows) ends in the columns that data.windows reads:\n"
    "device,part,step,index,offset.\n\n"
    "Adapters: one folder an expert, OUT/POPULATION-seedSEED/deviceI/{generalist,specialist}K, of the\n"
    "last checkpoint. Each holds the device's other LoRAs too. The base they belong to:\n"
    "cohort pretrain RESULT/config.yaml --out DIR\n\n"
    "  cohort export results/quickstart-1a2b3c4d --table loss --out loss.csv\n"
    "  cohort export results/quickstart-1a2b3c4d --table all --out tables\n"
    "  cohort export results/quickstart-1a2b3c4d --adapters adapters --population local --device 0\n";
const char TABLE_HELP[] =
    "Populations of one or more finished results side by side: means and deviations over seeds of what\n"
    "summary.csv says, the lowest marked, and what cannot be told apart from it. A population that\n"
    "diverged, or has no value, is named below the table. RESULT is a folder, or a file like summary.csv.\n\n"
    "  cohort table results/reference/multilingual --metric test_ppl_mean,test_ppl_after --baseline local\n"
    "  cohort table results/reference/multilingual_crossover --columns tokens_per_device --markdown\n";
const char PLOT_HELP[] =
    "Draws every figure that a result has, each as PNG and SVG, and says of the others why not: the test\n"
    "loss over rounds and over bytes, the final perplexities, fairness, the gates over rounds and layers,\n"
    "text coloured by expert, shares of experts by their number, and what text devices have. Of a sweep\n"
    "that has ended, also a metric along an axis, as lines with bands over seeds and as a map. Works on a\n"
    "run that is still going. Needs a Python with matplotlib and h5py: the first of $COHORT_PYTHON,\n"
    "/usr/bin/python3 and python3 that has both.\n\n"
    "  cohort plot results/quickstart-1a2b3c4d\n"
    "  cohort plot results/sweep-1a2b3c4d --metric test_ppl_after --axis data.dirichlet\n";
const char GENERATE_HELP[] =
    "Lets devices go on from a prompt: those of a result as of its last checkpoint, those of a\n"
    "configuration as they start. All devices are decoded together, each with its own adapters, and\n"
    "printed by name. A text ends at the end token, after --max-tokens tokens, or where the base's\n"
    "context is full. The same seed gives the same text, whatever else is decoded. Where the\n"
    "vocabulary is not 256 bytes, --tokens takes and prints ids: Cohort has no tokenizer.\n\n"
    "  cohort generate results/quickstart-1a2b3c4d --prompt 'Once upon' --population local --device 0\n"
    "  cohort generate results/quickstart-1a2b3c4d --prompt A --temperature 0.8 --top-k 40 --seed 7\n";
const char HELP_HELP[] =
    "Topics: any command, settings (all keys of a configuration), methods (how devices learn\n"
    "together).\n\n"
    "  cohort help settings\n";
const char VERSION_HELP[] = "Prints the version and the revision it was built from.\n";
