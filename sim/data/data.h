/* data.h - token shards, per-device views of them, window sampling, and the synthetic corpus. */
#ifndef COHORT_DATA_H
#define COHORT_DATA_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "settings/settings.h"
#include "support/problems.h"
#include "support/rng.h"

typedef enum { DATA_TRAIN, DATA_VALID, DATA_TEST, DATA_SPLITS } data_part;

/* A file of token ids, or for the synthetic corpus ids in memory. All ids are checked at open, and again as
 * they are read. An llm.c shard (256 x int32 header; magic 20240520: uint16, 20240801: uint32) is known by
 * its header. A flat little-endian file says nothing about itself, so the vocabulary decides: up to 65536 its
 * ids are uint16, above uint32. A shard of examples (examples.h) has prompts and responses, and where each
 * begins. The text stays in its file, which must not change. */
typedef struct shard shard;
/* vocabulary: every id must be below it; the message names the first that is not. */
exit_code shard_open(const char *path, int vocabulary, shard **out, problems *list);
void shard_close(shard *s);
int64_t shard_tokens(const shard *s);
/* Reading can fail (EXIT_RUN, with the file's name): it has become shorter, holds other ids, or is gone. */
exit_code shard_read(const shard *s, int64_t first, int64_t count, int32_t *out, problems *list);
/* tokens [sequence] from position `first` on, and targets [sequence]: the token after each. */
exit_code shard_window(const shard *s, int64_t first, int sequence, int32_t *tokens, int32_t *targets,
                       problems *list);

/* All text a run can draw from: `sources` (languages, topics), each with three shards: train_<i>.bin,
 * valid_<i>.bin, test_<i>.bin in the folder data.corpus, or data/<corpus> below the current one, with i = 0,
 * 1, 2 and on, zero-padded or not; sources.json may name the sources. Or the synthetic topics (synthetic.h).
 */
typedef struct corpus corpus;
exit_code corpus_open(const data_settings *d, int vocabulary, corpus **out, problems *list);
void corpus_close(corpus *c);
/* About what it takes in memory once it is open: what is kept of each of a folder's shards, or the synthetic
 * text. */
int64_t corpus_bytes(const data_settings *d);
/* Whether the folder's first shard is of examples; false where it cannot be read. */
bool corpus_is_of_examples(const char *name);
int corpus_sources(const corpus *c);
const char *corpus_source_name(const corpus *c, int source);
const shard *corpus_shard(const corpus *c, int source, data_part part);
/* Refuses examples that windows of data.sequence tokens cannot hold: without data.truncate all that are
 * longer, with it those of whose response nothing would be left. */
exit_code corpus_check_examples(const corpus *c, const data_settings *d, problems *list);
/* Entropy of a synthetic source in nats per token, the topics of its segments known: a lower bound on any
 * model's expected loss on it, tight where data.synthetic.purity is 1. NaN for real text. */
double corpus_entropy(const corpus *c, int source);

/* How the devices of a population divide the text of a corpus: by data.split (splits/). Corpus and settings
 * are borrowed. */
typedef struct partition partition;
exit_code partition_open(const corpus *c, const data_settings *d, uint64_t seed, int devices, partition **out,
                         problems *list);
/* Refuses settings that ask for a source, or for more sources, than the corpus has; *key: the setting that
 * does. To be called before the rest. */
exit_code partition_check(const corpus *c, const data_settings *d, const char **key, problems *list);
/* So many tokens times a factor, rounded down to whole ones. */
int64_t data_scaled(int64_t tokens, double factor);
/* The tokens of training text that a device wants, by data.tokens_per_device, data.fraction and the split; 0:
 * all there are. */
int64_t data_train_tokens(const data_settings *d, uint64_t seed, int device);
void partition_close(partition *p); /* its devices' data live on; NULL is fine */

/* What one device sees: in each part, a contiguous range of each source that it has any of; of a source of
 * examples those that begin in it, whole. Training ranges of devices are disjoint while the text lasts (see
 * device_data_overlaps). The seed decides which ranges, so populations of equal seed hold the same. Test
 * ranges begin where the source's test text does, whatever the seed. */
typedef struct device_data device_data;
/* pooled: the device of the centralized method, which sees the text of all devices. Cheapest in the order of
 * devices. */
exit_code device_data_open(partition *p, int device, bool pooled, device_data **out, problems *list);
void device_data_close(device_data *data);
/* of its training text; -1: of several, as pooled or by its split */
int device_data_source(const device_data *data);
int64_t device_data_tokens(const device_data *data, data_part part);
int64_t device_data_longest(const device_data *data, data_part part);  /* of its ranges */
int64_t device_data_examples(const device_data *data, data_part part); /* 0: it has running text */
/* Adds the tokens of each source [sources] in its training text. */
void device_data_mixture(const device_data *data, int64_t *out);
/* How long the run is that takes so many training steps: what the split drift needs, before it samples. */
void device_data_set_length(device_data *data, int rounds, int64_t steps);
/* corpus_entropy() in the mean over where its test windows fall. */
double device_data_entropy(const device_data *data);
/* True if a source has too little text for disjoint training ranges, so that the device shares some of it
 * with others. */
bool device_data_overlaps(const device_data *data);

/* The file data.windows of a population (windows.h), read once for all the devices that are wanted [devices].
 * `path` must outlive what is made of it. */
typedef struct given_windows given_windows;
exit_code given_windows_read(const char *path, int devices, const bool *wanted, given_windows **out,
                             problems *list);
void given_windows_destroy(given_windows *windows);
/* Gives a device the windows listed for it, which must lie in its text; they are moved out of `from`. Without
 * this all are drawn. */
exit_code device_data_give_windows(device_data *data, int sequence, given_windows *from, problems *list);
/* Refuses a file data.windows that does not list windows 0 .. batch - 1 of all steps 0 .. steps - 1; without
 * a file there is nothing to require. */
exit_code device_data_require(const device_data *data, data_part part, int64_t steps, int batch,
                              problems *list);
/* A window that is chosen, but not read: `sequence` tokens of running text, or one example. */
typedef struct {
    const shard *text;
    int64_t first;   /* token of `text` */
    int32_t tokens;  /* without the last target */
    int32_t skipped; /* its first targets, which are not counted: they are within a prompt */
    /* where it lies in the device's text of that part: its first token, or the number of its example */
    int64_t place;
} data_window;
/* tokens and targets [window->tokens] ids: target = next token, or -1 where it is not counted. */
exit_code data_window_read(const data_window *window, int32_t *tokens, int32_t *targets, problems *list);

/* sequence <= data.sequence. Training and router windows are random places with replacement, a function of
 * (seed, device, part, step, index) alone. Windows listed in the file data.windows (CSV:
 * device,part,step,index,offset; see windows.h) are taken from there, and a run requires that all its windows
 * are. */
exit_code device_data_sample(const device_data *data, data_part part, uint64_t step, int index, int sequence,
                             data_window *out, problems *list);
/* Evaluation window `index` of `count`: fixed, evenly spread over the part, the same at every evaluation. */
exit_code device_data_fixed(const device_data *data, data_part part, int index, int count, int sequence,
                            data_window *out, problems *list);
/* How many windows there are to evaluate, where `most` are asked for: no example twice. */
int device_data_fixed_count(const device_data *data, data_part part, int most);

/* `cohort data`: text files or folders -> shards (bytes as tokens, vocabulary 256, uint16), or JSON Lines of
 * prompts and responses -> shards of examples (example_lines.h, build_examples.c). Source i is names[i] with
 * the text at paths[i]. Its files are assigned to train, valid and test whole, by a hash of their content, so
 * that no page is in two splits (a source of one file is cut in three). `out` must be new or empty; it
 * appears whole or not at all, with sources.json: name, files and tokens of every source. */
typedef struct {
    int n_sources;
    const char *const *names, *const *paths;
    const char *out;
    double valid_share, test_share; /* of the bytes, or examples; both above 0 */
    bool shares_given;              /* somebody chose them: every source must be divided by them */
    /* of examples only: */
    bool by_task;       /* a source for each list of tasks of a NAME */
    int64_t longest;    /* leave out those of more tokens; 0: none */
    int64_t vocabulary; /* ids must be below it; 0: not checked */
    bool ends;          /* every response gets the id `end` behind it */
    int64_t end;
} data_build;
exit_code data_build_shards(const data_build *options, problems *list);
/* Writes the table of tokens per source and split of a folder that data_build_shards() made. */
exit_code data_print_table(const char *folder, FILE *to, problems *list);

#endif
