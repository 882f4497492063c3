/* A TFLite external delegate that does as it is told, for tests. Options:
 *
 *   take=N        builtin code of the ops to take; default 59, NEG, which it really computes (any other: garbage)
 *   most=N        take only ops whose first input has so many values at most
 *   fail=1        the graph cannot be prepared
 *   no_device=1   no delegate is made, with a message
 *   crash=1       SIGSEGV where it is made
 *   hang=1        it is never made
 *   cache=FOLDER  making it takes 0.3 s longer, unless it has left a file in that folder once
 *
 * An unknown option makes no delegate. Destroying NULL crashes: a caller must not do that.
 * The structs are those of tflite/core/c/common.h, cut off after the last member that is used here.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct {
  int type; float* data; IntArray* dims; float scale; int32_t zero_point; int allocation; size_t bytes;
  const void* map; const char* name; void* delegate; int buffer; char stale, variable;
  int quantization; void* quantization_params; void* sparsity; const IntArray* dims_signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void* user_data; } Node;
typedef struct Context Context;
typedef struct Delegate Delegate;
typedef struct {
  void* (*init)(Context*, const char*, size_t);
  void (*free)(Context*, void*);
  int (*prepare)(Context*, Node*);
  int (*invoke)(Context*, Node*);
  const char* (*profile)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void *external, *async;
  uint64_t inplace;
} Registration;
struct Context {
  size_t tensors_size;
  int (*get_plan)(Context*, IntArray**);
  Tensor* tensors;
  void* impl;
  int (*resize)(Context*, Tensor*, IntArray*);
  void (*report)(Context*, const char*, ...);
  int (*add_tensors)(Context*, int, int*);
  int (*get_node)(Context*, int, Node**, Registration**);
  int (*replace)(Context*, Registration, const IntArray*, Delegate*);
};
struct Delegate {
  void* data;
  int (*prepare)(Context*, Delegate*);
  void *copy_from, *copy_to, *free_buffer;
  int64_t flags;
  void* opaque;
};
typedef struct { Delegate* delegate; IntArray* nodes; } Params;
typedef struct { int take, fail; size_t most; } Told;

static void* init(Context* context, const char* buffer, size_t length) {
  int* nodes = malloc(sizeof *nodes);
  *nodes = ((const Params*)buffer)->nodes->size;
  return nodes;
}

static void release(Context* context, void* nodes) { free(nodes); }

static int ready(Context* context, Node* node) { return 0; }

static int invoke(Context* context, Node* node) {
  Tensor* in = &context->tensors[node->inputs->data[0]];
  Tensor* out = &context->tensors[node->outputs->data[0]];
  float sign = *(int*)node->user_data % 2 ? -1.0f : 1.0f;
  for (size_t i = 0; i < out->bytes / sizeof(float) && i < in->bytes / sizeof(float); i++) out->data[i] = sign * in->data[i];
  return 0;
}

static int prepare(Context* context, Delegate* delegate) {
  Told* told = delegate->data;
  IntArray* plan;
  if (told->fail || context->get_plan(context, &plan)) return 1;
  IntArray* taken = malloc(sizeof(int) * (plan->size + 1));
  taken->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node* node;
    Registration* op;
    if (context->get_node(context, plan->data[i], &node, &op)) return 1;
    size_t values = context->tensors[node->inputs->data[0]].bytes / sizeof(float);
    if (op->builtin_code == told->take && values <= told->most) taken->data[taken->size++] = plan->data[i];
  }
  Registration kernel = {
      .init = init, .free = release, .prepare = ready, .invoke = invoke, .custom_name = "Stub", .version = 1};
  int status = context->replace(context, kernel, taken, delegate);
  free(taken);
  return status;
}

static void compile(const char* folder) {
  char path[4096];
  snprintf(path, sizeof path, "%s/stub.bin", folder);
  if (!access(path, R_OK)) return;
  usleep(300000);
  FILE* file = fopen(path, "w");
  if (file) fputs("compiled", file), fclose(file);
}

Delegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count, void (*report)(const char*)) {
  Told told = {.take = 59, .most = (size_t)-1};
  for (size_t i = 0; i < count; i++) {
    if (!strcmp(keys[i], "take")) told.take = atoi(values[i]);
    else if (!strcmp(keys[i], "most")) told.most = (size_t)atol(values[i]);
    else if (!strcmp(keys[i], "fail")) told.fail = 1;
    else if (!strcmp(keys[i], "no_device")) { report("no device answers"); return NULL; }
    else if (!strcmp(keys[i], "crash")) *(volatile int*)8 = 1;
    else if (!strcmp(keys[i], "cache")) compile(values[i]);
    else if (!strcmp(keys[i], "hang")) for (;;) pause();
    else {
      char message[200];
      snprintf(message, sizeof message, "unknown option %s", keys[i]);
      report(message);
      return NULL;
    }
  }
  Delegate* made = calloc(1, sizeof *made);
  made->data = malloc(sizeof told);
  memcpy(made->data, &told, sizeof told);
  made->prepare = prepare;
  return made;
}

void tflite_plugin_destroy_delegate(Delegate* delegate) {
  free(delegate->data);
  free(delegate);
}
