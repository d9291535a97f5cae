"""`llm-pretrain launch`: a job's processes are started, watched, and replaced where they die."""
