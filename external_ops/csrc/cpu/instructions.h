// Functions compiled for several sets of instructions, of which one is chosen at run time.
#pragma once

#define LLM_INLINE static inline __attribute__((always_inline))

namespace llm {

// kAmx is AVX-512 with matrix tiles for bfloat16, for programs that the system lets use them.
enum class Instructions { kBaseline, kAvx2, kAvx512, kAmx };

// The processor's best set, or the one that the environment names (llm_cpu_instructions).
// Throws std::invalid_argument if it names none, or one that the processor lacks.
Instructions instructions();

// constexpr Dispatched<body> name; is a function like `body`, which must be LLM_INLINE: it is
// compiled into each of the three below. The body may call other LLM_INLINE functions, but what it
// calls otherwise is compiled for the baseline.
template <auto body>
struct Dispatched;

template <class Result, class... Arguments, Result (*body)(Arguments...)>
struct Dispatched<body> {
  Result operator()(Arguments... arguments) const {
#ifdef __x86_64__
    switch (instructions()) {
      case Instructions::kAmx:
      case Instructions::kAvx512:
        return on_avx512(arguments...);
      case Instructions::kAvx2:
        return on_avx2(arguments...);
      case Instructions::kBaseline:
        break;
    }
#endif
    return body(arguments...);
  }

 private:
#ifdef __x86_64__
  __attribute__((target("arch=x86-64-v4"))) static Result on_avx512(Arguments... arguments) {
    return body(arguments...);
  }
  __attribute__((target("arch=x86-64-v3"))) static Result on_avx2(Arguments... arguments) {
    return body(arguments...);
  }
#endif
};

}  // namespace llm
