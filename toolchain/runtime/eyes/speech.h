// Speech asks libllama.so for one function that is no C function, and that it does not export. No board speaks: a weak
// declaration lets the library load without it.
#include <cstdint>
struct llama_model;
__attribute__((weak)) uint32_t llama_model_get_tok_embd(const struct llama_model * model, float * out);
